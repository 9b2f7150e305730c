"""Tells pages their base address, so that the browser does not have to search for the server.

On a direct link to a page (/wavelets) Streamlit's script cannot know whether the name belongs to the page or to a
folder in front of the server. It requests both and logs an error for the wrong one. The names of our pages are known,
so one line of script in each HTML page, before Streamlit's, sets the base address. The page also gets an outline to
show until these scripts have loaded, see `skeleton`.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from app.dashboard.pages import PAGES
from app.dashboard.server.skeleton import with_skeleton

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

_BEFORE: Final = b"<script"
_NAMES: Final = json.dumps([name.replace("_", "-") for name in PAGES])
#: The address without the page's name, including whatever path a proxy added in front.
_SCRIPT: Final = (
    f"<script>{{const parts = location.pathname.split('/'); if ({_NAMES}.includes(parts.at(-1))) parts.pop(); "
    "window.__streamlit = {...window.__streamlit, BACKEND_BASE_URL: location.origin + parts.join('/')}}</script>\n    "
).encode()


class KnownAddress:
    """ASGI middleware that inserts this line before the first script of every HTML page."""

    def __init__(self, app: Application) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Respond as `app` does; only the response to a browser's GET request for a page is changed."""
        headers = dict(scope.get("headers", []))
        if scope["type"] != "http" or scope["method"] != "GET" or b"text/html" not in headers.get(b"accept", b""):
            await self.app(scope, receive, send)
            return
        plain = [(name, value) for name, value in scope["headers"] if name != b"accept-encoding"]
        await self.app({**scope, "headers": plain}, receive, _Insertion(send))


class _Insertion:
    """Collects an HTML response until it is complete, then sends it with the line inserted."""

    def __init__(self, send: Send) -> None:
        self.send = send
        self.start: Message | None = None
        self.body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = dict(message["headers"])
            if message["status"] == 200 and headers.get(b"content-type", b"").startswith(b"text/html"):
                self.start = message
                return
        if self.start is None:
            await self.send(message)
            return
        self.body += message.get("body", b"")
        if not message.get("more_body"):
            body = with_skeleton(self.body.replace(_BEFORE, _SCRIPT + _BEFORE, 1))
            kept = [(name, value) for name, value in self.start["headers"] if name != b"content-length"]
            length = (b"content-length", str(len(body)).encode())
            await self.send({**self.start, "headers": [*kept, length]})
            await self.send({"type": "http.response.body", "body": body})
