"""Serving the dashboard: the address it listens on, the names it answers to, and Streamlit's options."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import re
import socket
import sys
import threading
import webbrowser
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final

from app import DEFAULT_RUN
from app.dashboard.pages import MAIN, ROOT_VARIABLE, RUN_VARIABLE, THEME, UPLOAD_MB
from treekv.errors import TreeKVError

LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")


def serve(
    run: Path | None,
    *,
    host: str = "127.0.0.1",
    port: int = 8501,
    browser: bool = True,
    allow_hosts: Sequence[str] = (),
) -> None:
    """Serve the dashboard until it is stopped.

    Args:
        run: the run folder to show first; others beside it can be opened too. With None these are the runs below
            ./treekv-runs, and the first page makes one.
        host, port: where to listen. Only `host` and loopback names are answered; on a wildcard (0.0.0.0 or ::), which
            asks for it, this machine's own name and addresses too.
        browser: open the page in the user's browser.
        allow_hosts: more names or addresses under which browsers reach this machine, such as those of a proxy.

    Raises:
        TreeKVError: the address cannot be listened on, or what is allowed is not the name of a host.
    """
    options = server_options(host, port, allow_hosts)
    _check_address(host, port)
    os.environ.pop(RUN_VARIABLE, None)
    os.environ[ROOT_VARIABLE] = str(root_of(run))
    if run is not None:
        os.environ[RUN_VARIABLE] = run.resolve().name

    import streamlit as st
    from starlette.middleware import Middleware

    from app.dashboard.server.base_address import KnownAddress

    name = options["browser.serverAddress"]
    address = f"http://{f'[{name}]' if ':' in name else name}:{port}"

    @contextlib.asynccontextmanager
    async def lifespan(_: st.App) -> AsyncIterator[None]:
        print(f"Dashboard: {address} (Ctrl-C stops it)", flush=True)
        if browser and has_screen():
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
        yield

    app = st.App(MAIN, lifespan=lifespan, middleware=[Middleware(KnownAddress)])
    app.run(config=options)


def has_screen() -> bool:
    """Whether a browser has somewhere to show a page; where not, one of the terminal's would come."""
    there = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    return not sys.platform.startswith("linux") or any(os.environ.get(name) for name in there)


def root_of(run: Path | None) -> Path:
    """The folder below which everything can be seen of a dashboard that is started on `run`."""
    return DEFAULT_RUN.parent.absolute() if run is None else run.resolve().parent


def server_options(host: str, port: int, allow_hosts: Sequence[str] = ()) -> dict[str, Any]:
    """Streamlit's options, the safe ones spelt out: its defaults listen everywhere and report usage.

    Raises:
        TreeKVError: what is allowed is not the name of a host.
    """
    everywhere = is_wildcard(host)
    names = {*LOOPBACK, *map(_host_name, allow_hosts), *(own_names() if everywhere else [host])}
    return {
        "server.address": host,
        "server.port": port,
        "server.allowedHosts": sorted(names),
        "server.enableCORS": True,
        "server.enableXsrfProtection": True,
        "server.maxUploadSize": UPLOAD_MB,
        "server.headless": True,  # an app that is served like this opens no browser anyway
        "server.fileWatcherType": "none",
        "browser.serverAddress": LOOPBACK[0] if everywhere else host,  # what the browser here is opened on
        "browser.gatherUsageStats": False,
        "global.disableWidgetStateDuplicationWarning": True,  # dragging and playing set what a slider shows
        "client.showErrorDetails": "type",
        "client.toolbarMode": "viewer",
        # With its welcome goes an offer to install files for people who write Streamlit apps, also on the page.
        "logger.hideWelcomeMessage": True,
        # A full collection after every run of a page, twice a second beside a job's progress, would take 0.2 s of the
        # job's time each: torch and transformers are half a million objects. Python's own collections are enough.
        "runner.postScriptGC": False,
        **THEME,
    }


def is_wildcard(host: str) -> bool:
    """Whether listening on `host` is listening on all of this machine's addresses."""
    try:
        address = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0]
        return ipaddress.ip_address(address).is_unspecified
    except (OSError, ValueError):
        return False


def own_names() -> list[str]:
    """Under which names and addresses this machine is reached, as far as it knows itself."""
    names = {socket.gethostname(), socket.getfqdn()}
    for name in list(names):
        with contextlib.suppress(OSError):
            names |= {str(found[4][0]) for found in socket.getaddrinfo(name, None)}
    # The name often stands for loopback alone. Choosing a route for datagrams, of which none is sent, tells the
    # address that other machines see; both targets are reserved for documentation.
    for family, target in ((socket.AF_INET, "198.51.100.1"), (socket.AF_INET6, "2001:db8::1")):
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((target, 9))
            names.add(str(probe.getsockname()[0]))
    return sorted(names)


def _host_name(name: str) -> str:
    """A host as a browser names it, without brackets around an IPv6 address."""
    plain = name.strip().removeprefix("[").removesuffix("]")
    if re.fullmatch(r"(\*\.)?[\w-]+(\.[\w-]+)*\.?|[0-9a-fA-F:]+(:[\d.]+)?", plain) is None:
        raise TreeKVError(
            f"--allow-host takes the name or address of a host, such as runs.example.org or 192.0.2.7, got {name!r}"
        )
    return plain


def _check_address(host: str, port: int) -> None:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise TreeKVError(f"port {port} is in use on {host}; give another with --port") from error
        raise TreeKVError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
