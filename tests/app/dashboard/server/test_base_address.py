"""The line that tells pages where their server is: put into pages of HTML only, and right behind a proxy's folder."""

from __future__ import annotations

import asyncio
import gzip
import re

import pytest

from app.dashboard.pages import PAGES
from app.dashboard.server.base_address import KnownAddress

HTML = b"<html><head><script>first</script><script>second</script></head></html>"


def ask(kind: bytes, body: bytes, *, status: int = 200, accept: bytes = b"text/html,*/*", method: str = "GET"):
    """What comes back of an answer that arrives in two parts, compressed if the browser may have it so."""

    async def inner(scope, receive, send):
        compressed = b"gzip" in dict(scope["headers"]).get(b"accept-encoding", b"")
        sent = gzip.compress(body) if compressed else body
        headers = [(b"content-type", kind), (b"content-length", str(len(sent)).encode()), (b"etag", b"x")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": sent[:20], "more_body": True})
        await send({"type": "http.response.body", "body": sent[20:]})

    async def collect(message):
        messages.append(message)

    messages: list = []
    scope = {"type": "http", "method": method, "headers": [(b"accept", accept), (b"accept-encoding", b"gzip")]}
    asyncio.run(KnownAddress(inner)(scope, None, collect))
    headers = dict(messages[0]["headers"])
    whole = b"".join(message["body"] for message in messages[1:])
    assert int(headers[b"content-length"]) == len(whole) and headers[b"etag"] == b"x"
    return messages[0]["status"], whole


def test_a_page_gets_the_line_before_its_first_script():
    status, body = ask(b"text/html; charset=utf-8", HTML)
    line, rest = re.fullmatch(rb"<html><head>(<script>\{const.*?</script>)\s*(.*)", body, re.DOTALL).groups()
    assert status == 200 and b"BACKEND_BASE_URL" in line
    assert b"<html><head>" + rest == HTML
    assert all(f'"{name.replace("_", "-")}"'.encode() in line for name in PAGES)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (b"text/javascript", {}),
        (b"text/html", {"status": 404}),
        (b"text/html", {"accept": b"*/*"}),
        (b"text/html", {"method": "POST"}),
    ],
)
def test_everything_else_passes_untouched(kind, options):
    status, body = ask(kind, HTML, **options)
    assert status == options.get("status", 200)
    assert (body if body == HTML else gzip.decompress(body)) == HTML


def test_the_connection_of_a_page_passes_untouched():
    async def inner(scope, receive, send):
        seen.append((scope, receive, send))

    seen: list = []
    scope = {"type": "websocket", "headers": []}
    asyncio.run(KnownAddress(inner)(scope, "receive", "send"))
    assert seen == [(scope, "receive", "send")]
