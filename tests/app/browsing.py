"""What the tests in a real browser share: the browser, a served dashboard, and how to tell that a page is at rest."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Locator, Page, TimeoutError, WebSocket, sync_playwright

from tests.needs import lacking

ROOT = Path(__file__).resolve().parents[2]
ARTIFACTS = ROOT / "artifacts"  # screenshots, one a page; git leaves them out
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SETTLED = "[data-testid=stApp][data-test-script-state=notRunning]"
SECOND = 1000  # playwright counts milliseconds


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        lacking("no Chromium on the PATH, so the pages cannot be looked at; install the package chromium")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield running
        running.close()


class Watched:
    """A page in a profile of its own that keeps what it asked for, what it was sent and what it complained about."""

    def __init__(self, browser: Browser, javascript: bool = True, scheme: str = "light") -> None:
        self.context = browser.new_context(
            viewport={"width": 1300, "height": 1600}, java_script_enabled=javascript, color_scheme=scheme
        )
        self.context.set_default_timeout(120 * SECOND)
        self.page: Page = self.context.new_page()
        self.hosts: set[str] = set()
        self.complaints: list[str] = []
        self.bytes = 0
        self.page.on("request", lambda request: self.hosts.add(urlsplit(request.url).hostname or ""))
        self.page.on("websocket", self._opened)
        self.page.on("console", lambda said: said.type == "error" and self.complaints.append(said.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _opened(self, socket: WebSocket) -> None:
        self.hosts.add(urlsplit(socket.url).hostname or "")
        socket.on("framereceived", self._received)

    def _received(self, payload: str | bytes) -> None:
        self.bytes += len(payload)

    def settle(self) -> None:
        """Wait until the page is at rest."""
        self.page.wait_for_timeout(300)
        self.page.wait_for_selector(SETTLED, timeout=120 * SECOND)

    def go(self, title: str) -> None:
        """Open a page by its link.

        A click that changes nothing is repeated once and reported: Streamlit can lose one that comes while a part of
        the page asks to run again (seen once on a busy machine, and not in 250 further clicks under load).
        """
        heading = self.page.get_by_role("heading", name=title, exact=True, level=1)
        for patience in (40, 80):
            self.page.get_by_test_id("stSidebarNavLink").filter(has_text=title).click()
            try:
                heading.wait_for(timeout=patience * SECOND)
                return
            except TimeoutError:
                state = self.page.get_by_test_id("stApp").get_attribute("data-test-script-state")
                shown = self.page.get_by_test_id("stMain").inner_text()[:1000]
                print(f"no {title} within {patience} s of the click; {self.page.url}, {state}:\n{shown}")
        raise AssertionError(f"two clicks on {title} did not open it; what the page showed is in the output")

    def keep(self, name: str) -> None:
        """A screenshot for people to look at, with SCREENSHOTS=1: drawing whole pages takes a while without a GPU."""
        if not os.environ.get("SCREENSHOTS"):
            return
        ARTIFACTS.mkdir(exist_ok=True)
        content = self.page.get_by_test_id("stMainBlockContainer").bounding_box()
        height = 1600 if content is None else max(1600, round(content["height"]))
        self.page.set_viewport_size({"width": 1300, "height": height})
        self.page.wait_for_timeout(700)
        self.page.screenshot(path=ARTIFACTS / f"{name}.png")
        self.page.set_viewport_size({"width": 1300, "height": 1600})


def handshake(port: int, host: str, reached: str = "127.0.0.1") -> int:
    """The status that a page from `host` gets when it asks the server at `reached` for its connection."""
    with socket.create_connection((reached, port), timeout=30) as connection:
        connection.sendall(
            f"GET /_stcore/stream HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\n"
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )
        return int(connection.recv(64).split()[1])


@contextlib.contextmanager
def served(run: Path | None, folder: Path, *options: str, program: Path | None = None) -> Iterator[str]:
    """The address of a running `treekv dashboard`, which does not look for models in the network.

    What it prints goes to `folder`/log. `program` is an installed `treekv` to run instead of this checkout's.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    start = [sys.executable, "-m", "app.cli"] if program is None else [str(program)]
    command = [*start, "dashboard", *([] if run is None else [str(run)]), "--port", str(port), "--no-browser", *options]
    path = str(ROOT) if program is None else ""
    environment = os.environ | {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            for _ in range(240):
                if server.poll() is not None:
                    break
                try:
                    with urllib.request.urlopen(f"{address}/_stcore/health", timeout=5):
                        break
                except OSError:
                    time.sleep(0.5)
            assert server.poll() is None, (folder / "log").read_text()
            yield address
        finally:
            server.terminate()
            server.wait(timeout=60)


def drawn(page: Page, number: int) -> list[str]:
    """Wait until the page is at rest with so many pictures that have ink; their titles."""
    page.wait_for_selector(SETTLED, timeout=120 * SECOND)
    page.wait_for_function(
        "number => document.querySelectorAll('.js-plotly-plot .gtitle').length === number",
        arg=number,
        timeout=120 * SECOND,
    )
    inked = page.evaluate(
        """() => [...document.querySelectorAll('.js-plotly-plot')].map(
            plot => plot.querySelectorAll('.scatterlayer path.js-line, .heatmaplayer image, .barlayer path').length)"""
    )
    assert len(inked) == number
    assert all(inked)
    return page.locator(".js-plotly-plot .gtitle").all_text_contents()


def cut_off(page: Page) -> list[str]:
    """What cannot be read on the page: content wider than the window, and text outside the pictures or over other text.

    Boxes that scroll on purpose are left out; so is what only screen readers see.
    """
    found: list[str] = page.evaluate(_CUT_OFF)
    return found


_CUT_OFF = """() => {
    const found = [];
    const start = words => words.trim().slice(0, 30);
    const main = document.querySelector('[data-testid=stMainBlockContainer]');
    if (document.documentElement.scrollWidth > innerWidth + 1) found.push('the page scrolls sideways');
    const right = main.getBoundingClientRect().right + 1;
    for (const box of main.querySelectorAll('pre, figure, img, [data-testid=stDataFrame], .js-plotly-plot')) {
        const far = Math.round(box.getBoundingClientRect().right - right);
        if (far > 0) found.push(`${box.tagName} reaches ${far} px too far`);
    }
    for (const table of main.querySelectorAll('.results'))
        if (table.scrollWidth > table.clientWidth + 1) found.push('a table of results is cut off');
    for (const text of main.querySelectorAll('p, label, button, [data-testid^=stMetric]')) {
        const style = getComputedStyle(text);
        if (style.overflow === 'hidden' && style.textOverflow === 'ellipsis' && text.scrollWidth > text.clientWidth + 1)
            found.push(`cut: ${start(text.textContent)}`);
    }
    for (const plot of main.querySelectorAll('.js-plotly-plot')) {
        const whole = plot.getBoundingClientRect();
        const slanted = text => /rotate\\((?!0[,)])/.test(text.getAttribute('transform') || '');
        const boxes = [...plot.querySelectorAll('.main-svg text')].filter(text => !slanted(text))
            .map(text => [start(text.textContent), text.getBoundingClientRect()])
            .filter(([words, box]) => words && box.width > 0 && whole.width > 0);
        for (const [words, box] of boxes)
            if (box.left < whole.left - 2 || box.right > whole.right + 2) found.push(`outside its picture: ${words}`);
        boxes.forEach(([words, a], number) => boxes.slice(number + 1).forEach(([others, b]) => {
            const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
            const down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
            if (across > 3 && down > 4) found.push(`one over the other: ${words} | ${others}`);
        }));
    }
    return [...new Set(found)];
}"""


def number(watched: Watched, label: str, value: int) -> None:
    field = watched.page.get_by_label(label, exact=True)
    field.fill(str(value))
    field.press("Enter")
    watched.settle()


def stop(page: Page) -> Locator:
    """The page's own button: Streamlit shows one of that name in its head while a page is made."""
    return page.get_by_test_id("stMainBlockContainer").get_by_role("button", name="Stop", exact=True)


def drag(page: Page, picture: int, first: float, last: float) -> None:
    """Over the middle of a picture, from one share of its width to another."""
    area = page.locator(".js-plotly-plot .nsewdrag").nth(picture)
    area.scroll_into_view_if_needed()
    box = area.bounding_box()
    assert box is not None
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + first * box["width"], y)
    page.mouse.down()
    for share in (0.3, 0.7, 1.0):
        page.mouse.move(box["x"] + (first + share * (last - first)) * box["width"], y, steps=3)
    page.mouse.up()
