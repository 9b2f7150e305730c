"""Serving the dashboard: the address it listens on, the names it answers to, and Streamlit's options."""

from __future__ import annotations

import contextlib
import errno
import importlib
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
from app.dashboard.pages import (
    FIRST_PICTURE,
    LIGHT,
    MAIN,
    ROOT_VARIABLE,
    RUN_VARIABLE,
    THEME,
    UPLOAD_MB,
    WARM,
    load_libraries,
)
from treekv.errors import TreeKVError

PATIENCE: Final = 8.0  # seconds until the heavy imports begin although no page was asked for
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
        run: the run folder to show first; other runs in the same folder can be opened too. With None these are the
            runs in ./treekv-runs, and the first page can make one.
        host, port: where to listen. Only requests for `host` and loopback names are answered; with a wildcard
            (0.0.0.0 or ::) those for this machine's own names and addresses too.
        browser: open the page in the user's browser.
        allow_hosts: further names or addresses under which browsers reach this machine, such as those of a proxy.

    Raises:
        TreeKVError: the address cannot be used, or an entry of `allow_hosts` is not the name of a host.
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
        threading.Thread(target=warm_up, name="treekv-warm-up", daemon=True).start()
        print(f"Dashboard: {address} (Ctrl-C stops it)", flush=True)
        if browser and has_screen():
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
        yield

    app = st.App(MAIN, lifespan=lifespan, middleware=[Middleware(KnownAddress)])
    app.run(config=options)


def warm_up() -> None:
    """Import what the pages need in the background: what draws the first picture, and the rest once it is drawn."""
    importlib.import_module(LIGHT)
    FIRST_PICTURE.wait(PATIENCE)
    load_libraries()
    importlib.import_module(WARM)


def has_screen() -> bool:
    """Whether there is a display for a browser; without one, `webbrowser` would open a text browser in the terminal."""
    there = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    return not sys.platform.startswith("linux") or any(os.environ.get(name) for name in there)


def root_of(run: Path | None) -> Path:
    """The folder whose runs a dashboard started on `run` shows."""
    return DEFAULT_RUN.parent.absolute() if run is None else run.resolve().parent


def server_options(host: str, port: int, allow_hosts: Sequence[str] = ()) -> dict[str, Any]:
    """Streamlit's options. Its defaults listen on all addresses and report usage; these do not.

    Raises:
        TreeKVError: an entry of `allow_hosts` is not the name of a host.
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
        "server.headless": True,  # an app served this way opens no browser anyway
        "server.fileWatcherType": "none",
        "browser.serverAddress": LOOPBACK[0]
        if everywhere
        else host,  # the address that a browser on this machine opens
        "browser.gatherUsageStats": False,
        "global.disableWidgetStateDuplicationWarning": True,  # dragging and playing set the value of a slider
        "client.showErrorDetails": "type",
        "client.toolbarMode": "viewer",
        # The welcome message offers to install files for developers of Streamlit apps, on the page too.
        "logger.hideWelcomeMessage": True,
        # A full garbage collection after each run of a page, which is twice a second while a job shows its progress,
        # would take 0.2 s of the job's time: torch and transformers are half a million objects.
        "runner.postScriptGC": False,
        **THEME,
    }


def is_wildcard(host: str) -> bool:
    """Whether `host` stands for all addresses of this machine."""
    try:
        address = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0]
        return ipaddress.ip_address(address).is_unspecified
    except (OSError, ValueError):
        return False


def own_names() -> list[str]:
    """The names and addresses of this machine, as far as it knows them."""
    names = {socket.gethostname(), socket.getfqdn()}
    for name in list(names):
        with contextlib.suppress(OSError):
            names |= {str(found[4][0]) for found in socket.getaddrinfo(name, None)}
    # The host name often resolves to loopback only. Connecting a datagram socket, which sends nothing, selects the
    # address that other machines see; both targets are reserved for documentation.
    for family, target in ((socket.AF_INET, "198.51.100.1"), (socket.AF_INET6, "2001:db8::1")):
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((target, 9))
            names.add(str(probe.getsockname()[0]))
    return sorted(names)


def _host_name(name: str) -> str:
    """The name of a host without the brackets of an IPv6 address."""
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
            raise TreeKVError(f"port {port} is in use on {host}; choose another with --port") from error
        raise TreeKVError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
