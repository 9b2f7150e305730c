"""The report and the dashboard in a real browser: drawn, quiet, and silent towards the network."""

from __future__ import annotations

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

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
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
# Below a page's own path Streamlit looks for its health and its settings once more, where they are not.
UNFOUND = ["Failed to load resource: the server responded with a status of 404 (Not Found)"] * 2
SECOND = 1000  # playwright counts milliseconds


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        if os.environ.get("CI"):
            pytest.fail("no Chromium on the PATH: CI has to install one")
        pytest.skip("no Chromium on the PATH, so the pages cannot be looked at; install the package chromium")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield running
        running.close()


class Watched:
    """A page that keeps what it asked for and what it complained about."""

    def __init__(self, browser: Browser, javascript: bool = True) -> None:
        self.context = browser.new_context(viewport={"width": 1300, "height": 1600}, java_script_enabled=javascript)
        self.page: Page = self.context.new_page()
        self.hosts: set[str] = set()
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.hosts.add(urlsplit(request.url).hostname or ""))
        self.page.on("websocket", lambda opened: self.hosts.add(urlsplit(opened.url).hostname or ""))
        self.page.on("console", lambda said: said.type == "error" and self.complaints.append(said.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))


@pytest.fixture
def watched(browser: Browser) -> Iterator[Watched]:
    new = Watched(browser)
    yield new
    new.context.close()


@pytest.fixture(scope="module")
def dashboard(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running `treekv dashboard`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    folder = tmp_path_factory.mktemp("server")
    command = [sys.executable, "-m", "app.cli", "dashboard", str(small_run), "--port", str(port), "--no-browser"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
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


def test_the_dashboard_draws_its_pictures(dashboard: str, watched: Watched) -> None:
    page = watched.page
    page.goto(f"{dashboard}/wavelets")
    titles = drawn(page, 5)
    assert titles[0].startswith("Token contributions")
    assert titles[1].startswith("Wavelet coefficients")

    page.get_by_role("combobox", name="Layer").click()
    page.get_by_role("option", name="1", exact=True).click()
    page.wait_for_function("() => location.search.includes('layer=1')", timeout=60 * SECOND)
    page.get_by_text("layer 1, mean of 4 heads").first.wait_for(timeout=60 * SECOND)

    page.get_by_role("link", name="Eviction map").click()
    page.get_by_role("heading", name="Eviction map").wait_for(timeout=60 * SECOND)
    assert drawn(page, 1)[0].startswith("Tokens kept")
    page.get_by_text("layer 1, mean of 2 KV heads").first.wait_for(timeout=60 * SECOND)
    page.get_by_role("radio", name="StreamingLLM").click()
    page.get_by_text("streaming").first.wait_for(timeout=60 * SECOND)

    assert watched.complaints == UNFOUND
    assert watched.hosts - {""} == {"127.0.0.1"}


def test_a_link_shows_the_same_view(dashboard: str, watched: Watched) -> None:
    watched.page.goto(f"{dashboard}/eviction-map?layer=1&head=3&policy=StreamingLLM")
    drawn(watched.page, 1)
    watched.page.get_by_text("Query head 3 reads KV head 1").wait_for(timeout=60 * SECOND)
    watched.page.get_by_text("layer 1, KV head 1").first.wait_for(timeout=60 * SECOND)
    assert watched.hosts - {""} == {"127.0.0.1"}


def test_a_strange_host_is_not_served(dashboard: str) -> None:
    port = urlsplit(dashboard).port
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(
            b"GET /_stcore/stream HTTP/1.1\r\nHost: evil.invalid\r\nOrigin: http://evil.invalid\r\n"
            b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        assert connection.recv(64).split()[1] == b"403"


def test_the_report_draws_its_pictures_and_asks_for_nothing(small_run: Path, watched: Watched) -> None:
    page = watched.page
    page.goto((small_run / "report.html").as_uri())
    page.wait_for_function(
        "() => document.querySelectorAll('.js-plotly-plot .gtitle').length === 5", timeout=120 * SECOND
    )
    assert page.locator(".scatterlayer path.js-line").count() > 0
    assert page.locator(".heatmaplayer image").count() == 4
    assert page.locator("figure [role=img]").count() == 5
    assert watched.complaints == []
    assert watched.hosts == {""}  # the file itself


def test_the_report_reads_without_scripts(small_run: Path, browser: Browser) -> None:
    watched = Watched(browser, javascript=False)
    watched.page.goto((small_run / "report.html").as_uri())
    assert watched.page.get_by_role("cell", name="StreamingLLM").is_visible()
    words = watched.page.locator("noscript p")
    assert words.count() == 5
    assert words.first.inner_text().startswith("The picture needs scripts. In words: Line chart")
    assert watched.hosts == {""}
    watched.context.close()
