"""Pages that know the address they hang below, so that the browser need not look for the server.

On a direct link to a page (/wavelets) Streamlit's own script cannot know whether the page or a folder in front of the
server bears that name. It asks below both and logs a failure for the wrong one. Our page names are known: one line in
each page of HTML, before that script, tells it.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from app.dashboard.pages import PAGES

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

_BEFORE: Final = b"<script"
_NAMES: Final = json.dumps([name.replace("_", "-") for name in PAGES])
#: The address without the page's name, whatever a proxy put before it.
_TOLD: Final = (
    f"<script>{{const parts = location.pathname.split('/'); if ({_NAMES}.includes(parts.at(-1))) parts.pop(); "
    "window.__streamlit = {...window.__streamlit, BACKEND_BASE_URL: location.origin + parts.join('/')}}</script>\n    "
).encode()


class KnownAddress:
    """ASGI middleware: puts that line before the first script of every page of HTML."""

    def __init__(self, app: Application) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer as `app` does; only GET requests of a browser that asks for a page are touched."""
        headers = dict(scope.get("headers", []))
        if scope["type"] != "http" or scope["method"] != "GET" or b"text/html" not in headers.get(b"accept", b""):
            await self.app(scope, receive, send)
            return
        plain = [(name, value) for name, value in scope["headers"] if name != b"accept-encoding"]
        await self.app({**scope, "headers": plain}, receive, _Told(send))


class _Told:
    """Holds an answer of HTML back until it is whole, then sends it with the line."""

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
            body = self.body.replace(_BEFORE, _TOLD + _BEFORE, 1)
            kept = [(name, value) for name, value in self.start["headers"] if name != b"content-length"]
            length = (b"content-length", str(len(body)).encode())
            await self.send({**self.start, "headers": [*kept, length]})
            await self.send({"type": "http.response.body", "body": body})
