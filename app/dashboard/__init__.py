"""The dashboard: a Streamlit app over a folder of runs. `main.py` is the frame, each page is a file in `views/`."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path
from typing import Any, Final

from app import DEFAULT_RUN
from treekv.errors import TreeKVError

# How the server's process tells its pages which runs there are and which one to show first.
ROOT_VARIABLE: Final = "TREEKV_RUNS"
RUN_VARIABLE: Final = "TREEKV_RUN"
UPLOAD_MB: Final = 5  # of text: more than a million tokens
# The browser's own preference decides between light and dark, or the reader in the menu.
THEME: Final = {
    "theme.light.primaryColor": "#0b5394",
    "theme.light.secondaryBackgroundColor": "#f5f6f8",
    "theme.light.textColor": "#1f2430",
    "theme.dark.primaryColor": "#3b7cc0",
    "theme.dark.backgroundColor": "#12161d",
    "theme.dark.secondaryBackgroundColor": "#1a202a",
    "theme.dark.textColor": "#e6e9f0",
}
# The pages in the order of the work: the name of the file in `views/` (with - for _ the address), and the title.
PAGES: Final = {
    "start": "Start",
    "wavelets": "Wavelets",
    "eviction_map": "Eviction map",
    "compare": "Compare",
    "generate": "Generate",
    "take_away": "Take away",
    "results": "Results",
}
LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")


def serve(run: Path | None, *, host: str = "127.0.0.1", port: int = 8501, browser: bool = True) -> None:
    """Serve the dashboard until it is stopped.

    Args:
        run: the run folder to show first; others beside it can be opened too. With None these are the runs below
            ./treekv-runs, and the first page makes one.
        host, port: where to listen. Only `host` and loopback names are answered.
        browser: open the page in the user's browser.

    Raises:
        TreeKVError: the address cannot be listened on.
    """
    _check_address(host, port)
    os.environ.pop(RUN_VARIABLE, None)
    os.environ[ROOT_VARIABLE] = str(DEFAULT_RUN.parent.absolute() if run is None else run.resolve().parent)
    if run is not None:
        os.environ[RUN_VARIABLE] = run.resolve().name

    import streamlit as st
    from starlette.middleware import Middleware

    from app.dashboard.addressing import KnownAddress

    app = st.App(Path(__file__).with_name("main.py"), middleware=[Middleware(KnownAddress)])
    app.run(config=server_options(host, port, browser))


def server_options(host: str, port: int, browser: bool) -> dict[str, Any]:
    """Streamlit's options, the safe ones spelt out: its defaults listen everywhere and report usage."""
    return {
        "server.address": host,
        "server.port": port,
        "server.allowedHosts": sorted({host, *LOOPBACK}),
        "server.enableCORS": True,
        "server.enableXsrfProtection": True,
        "server.maxUploadSize": UPLOAD_MB,
        "server.headless": not browser,
        "server.fileWatcherType": "none",
        "browser.serverAddress": host,
        "browser.gatherUsageStats": False,
        "global.disableWidgetStateDuplicationWarning": True,  # dragging and playing set what a slider shows
        "client.showErrorDetails": "type",
        "client.toolbarMode": "viewer",
        **THEME,
    }


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
