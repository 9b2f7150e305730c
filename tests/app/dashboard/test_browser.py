"""The report and the dashboard in a real browser: drawn, quiet, and silent towards the network."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import Browser, expect

from app.dashboard.server.serve import LOOPBACK, own_names
from tests.app.browsing import SECOND, Watched, drawn, handshake, served


def test_the_dashboard_draws_its_pictures(dashboard: str, watched: Watched) -> None:
    page = watched.page
    page.goto(f"{dashboard}/wavelets")
    titles = drawn(page, 7)
    assert titles[0].startswith("Token contributions")
    assert titles[1].startswith("Wavelet coefficients")

    page.get_by_role("combobox", name="Layer").click()
    page.get_by_role("option", name="1", exact=True).click()
    page.wait_for_function("() => location.search.includes('layer=1')", timeout=60 * SECOND)
    page.get_by_text("layer 1, mean of 4 heads").first.wait_for(timeout=60 * SECOND)

    page.get_by_role("link", name="Eviction map").click()
    page.get_by_role("heading", name="Eviction map").wait_for(timeout=60 * SECOND)
    assert drawn(page, 2)[0].startswith("Tokens kept")
    page.get_by_text("layer 1, mean of 2 KV heads").first.wait_for(timeout=60 * SECOND)
    page.get_by_role("radio", name="StreamingLLM").click()
    page.get_by_text("streaming").first.wait_for(timeout=60 * SECOND)

    assert watched.complaints == []
    assert watched.hosts - {""} == {"127.0.0.1"}


def test_a_link_shows_the_same_view(dashboard: str, watched: Watched) -> None:
    watched.page.goto(f"{dashboard}/eviction-map?layer=1&head=3&policy=StreamingLLM")
    drawn(watched.page, 2)
    watched.page.get_by_text("Query head 3 reads KV head 1").wait_for(timeout=60 * SECOND)
    watched.page.get_by_text("layer 1, KV head 1").first.wait_for(timeout=60 * SECOND)
    assert watched.hosts - {""} == {"127.0.0.1"}


def test_every_cell_of_the_map_names_its_tokens_and_a_drag_over_it_zooms(dashboard: str, watched: Watched) -> None:
    page = watched.page
    page.goto(f"{dashboard}/eviction-map?layer=1&head=3&policy=StreamingLLM")
    drawn(page, 2)
    watched.settle()
    box = page.locator(".nsewdrag").first.bounding_box()
    assert box is not None

    def at(across: float, down: float) -> tuple[float, float]:
        return box["x"] + across * box["width"], box["y"] + down * box["height"]

    for across, down in ((0.1, 0.9), (0.4, 0.7), (0.8, 0.95)):
        page.mouse.move(*at(across, down))
        page.wait_for_timeout(SECOND / 2)
        said = page.locator(".hoverlayer").first.text_content() or ""
        assert re.fullmatch("after step \\d+, position \\d+\u201c.+\u201d: kept \\d+ %", said), said
    page.mouse.move(*at(0.8, 0.2))
    page.wait_for_timeout(SECOND / 2)
    assert page.locator(".hoverlayer").first.text_content() == "not read yet"

    page.mouse.move(*at(0.25, 0.5))
    page.mouse.down()
    page.mouse.move(*at(0.75, 0.5), steps=5)
    page.mouse.up()
    page.wait_for_function("() => location.search.includes('positions=')", timeout=60 * SECOND)
    assert watched.complaints == []


def test_a_visitor_sees_how_it_works_and_goes_through_it_by_arrow_keys(browser: Browser, tmp_path: Path) -> None:
    watched = Watched(browser)
    page = watched.page
    title = page.locator(".js-plotly-plot .gtitle").first
    with served(None, tmp_path) as address:
        page.goto(address)
        page.get_by_role("img", name="Map of step against position for the policy TreeKV").wait_for()
        page.get_by_role("link", name="How TreeKV works, in a minute").click()
        page.get_by_role("heading", name="The paper", exact=True, level=1).wait_for()
        assert drawn(page, 1) == ["Step 9 of 17: \u201cbut\u201d arrives"]
        for key, words in (
            ("ArrowRight", "Step 10 of 17"),
            ("ArrowLeft", "Step 9 of 17"),
            ("ArrowLeft", "Step 8 of 17"),
        ):
            watched.settle()
            page.keyboard.press(key)
            expect(title).to_contain_text(words, timeout=60 * SECOND)
        page.wait_for_function("() => location.search.includes('word=8')", timeout=60 * SECOND)
        # In a text field an arrow key moves the caret.
        sentence = page.get_by_label("Sentence", exact=True)
        sentence.fill("one two three four five six seven eight")
        sentence.press("ArrowLeft")
        sentence.press("Enter")
        expect(title).to_contain_text("Step 8 of 8", timeout=60 * SECOND)
        watched.keep("the-paper-visitor")
    assert watched.complaints == []
    assert watched.hosts - {""} == {"127.0.0.1"}
    watched.context.close()


def test_a_strange_host_is_not_served(dashboard: str) -> None:
    port = urlsplit(dashboard).port
    assert port is not None
    assert handshake(port, f"127.0.0.1:{port}") == 101
    assert handshake(port, "evil.invalid") == 403
    assert {handshake(port, name) for name in own_names() if name not in LOOPBACK and ":" not in name} <= {403}


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
    assert words.first.inner_text().startswith("The figure needs scripts. In words: Line chart")
    assert watched.hosts == {""}
    watched.context.close()


def test_a_click_on_a_head_selects_it_for_all_figures(dashboard: str, watched: Watched) -> None:
    page = watched.page
    page.goto(f"{dashboard}/eviction-map?view=All+heads")
    drawn(page, 1)
    watched.settle()
    box = page.locator(".nsewdrag").first.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + 0.75 * box["width"], box["y"] + 0.75 * box["height"])  # layer 1, KV head 1
    page.get_by_text("Query head 2 reads KV head 1").wait_for(timeout=60 * SECOND)
    assert "layer=1" in page.url and "head=2" in page.url
    assert watched.complaints == []
