"""Links, controls and themes of the dashboard in a real browser."""

from __future__ import annotations

import re
from urllib.parse import unquote

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from app.dashboard.pages import PAGES
from tests.app.browsing import SECOND, Watched, drawn, stop

expect.set_options(timeout=120 * SECOND)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_link_shows_a_colleague_the_same_view_in_either_theme(dashboard: str, browser: Browser, scheme: str) -> None:
    watched = Watched(browser, scheme=scheme)
    page = watched.page
    page.goto(
        f"{dashboard}/eviction-map?run=small&layer=1&head=3&policy=StreamingLLM&step=200&positions=50&positions=150"
    )
    assert drawn(page, 2)[0] == "Tokens kept by the policy “StreamingLLM”"
    page.get_by_text("layer 1, KV head 1").first.wait_for(timeout=120 * SECOND)
    page.get_by_text("positions 50 to 149").first.wait_for(timeout=120 * SECOND)
    expect(page.get_by_role("slider", name="Step (tokens read so far)")).to_have_value("200")
    ground = page.evaluate("() => getComputedStyle(document.querySelector('[data-testid=stApp]')).backgroundColor")
    ink = page.evaluate("() => getComputedStyle(document.querySelector('.gtitle')).fill")
    light = [sum(int(part) for part in colour[4:-1].split(",")) for colour in (ground, ink)]
    assert (light[0] > 600 > 300 > light[1]) if scheme == "light" else (light[0] < 150 < 600 < light[1])
    paint = page.evaluate("() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime")
    print(f"\nfirst paint, {scheme}: {paint:.0f} ms; {watched.bytes:,} bytes over the socket")
    watched.keep(f"shared-link-{scheme}")
    assert watched.complaints == []
    watched.context.close()


def test_a_link_that_asks_in_vain_is_put_right_and_says_so(dashboard: str, watched: Watched) -> None:
    page = watched.page
    page.goto(f"{dashboard}/eviction-map?run=small&layer=999&policy=nobody&positions=100&positions=100")
    drawn(page, 2)
    said = page.get_by_test_id("stAlert").filter(has_text="layer 999 (all are shown)")
    expect(said).to_contain_text("positions 100 to 100 (100 to 116 are shown); the policy nobody (TreeKV is shown)")
    page.get_by_text("positions 100 to 115").first.wait_for(timeout=120 * SECOND)
    handles = page.get_by_test_id("stSidebar").get_by_role("slider")
    expect(handles.nth(0)).to_have_value("100")
    expect(handles.nth(1)).to_have_value("116")
    page.wait_for_function("() => location.search.includes('positions=100&positions=116')", timeout=60 * SECOND)
    assert "999" not in page.url
    page.wait_for_timeout(2 * SECOND)
    expect(said).to_be_visible()

    page.goto(f"{dashboard}/wavelets?run=small")
    drawn(page, 7)
    handles.nth(1).press("Home")
    page.get_by_role("region", name="The text of positions 0 to 15").wait_for(timeout=120 * SECOND)
    drawn(page, 7)
    expect(handles.nth(1)).to_have_value("16")
    assert page.get_by_test_id("stAlert").count() == 0
    assert watched.complaints == []


def tab_to(page: Page, what: Locator) -> None:
    """Press Tab until the keyboard is at `what`, which has a ring around it then."""
    for _ in range(120):
        page.keyboard.press("Tab")
        if what.evaluate("it => it === document.activeElement"):
            style, width = what.evaluate(
                "it => [getComputedStyle(it).outlineStyle, parseFloat(getComputedStyle(it).outlineWidth)]"
            )
            assert (style, width >= 2) == ("solid", True)
            return
    raise AssertionError(f"no number of Tabs leads to {what}")


def test_controls_are_reached_by_keyboard_alone(dashboard: str, watched: Watched) -> None:
    page = watched.page
    page.goto(f"{dashboard}/eviction-map?run=small")
    drawn(page, 2)
    play = page.get_by_test_id("stMainBlockContainer").get_by_role("button", name="Play", exact=True)
    tab_to(page, play)
    page.keyboard.press("Enter")
    stop(page).wait_for(timeout=120 * SECOND)
    play.wait_for(timeout=120 * SECOND)  # it plays to the end
    text = page.get_by_role("region", name="The text, shaded by what is kept")
    tab_to(page, text)
    page.goto(f"{dashboard}/wavelets?run=small&positions=50&positions=150")
    drawn(page, 7)
    tab_to(page, page.get_by_role("button", name="Show the whole text"))
    page.keyboard.press("Enter")
    page.get_by_role("region", name="The text of positions 50 to 149").wait_for(state="detached", timeout=120 * SECOND)


def test_a_control_moved_quickly_leaves_the_others_to_what_follows_from_it(dashboard: str, watched: Watched) -> None:
    """What a browser still says of controls that the run before has changed are not moves."""
    page = watched.page
    names = ("tree", "streaming", "tova")
    page.goto(
        f"{dashboard}/compare?run=small&compare={';'.join(f'{name},cache_size=64,prefill=stream' for name in names)}"
    )
    for marked in ("A TreeKV", "C TOVA"):  # a window of TOVA's is always 0
        drawn(page, 1)
        page.get_by_test_id("stMainBlockContainer").get_by_role("radio", name=marked).click()
        page.wait_for_timeout(SECOND)
        watched.settle()
        budget = page.get_by_role("slider", name="Budget (tokens)")
        before = int(budget.input_value())
        budget.focus()
        for _ in range(4):
            budget.press("ArrowRight")
            page.wait_for_timeout(100)
        size = before + 4 * 16
        expected = ";".join(f"{name},cache_size={size},prefill=stream" for name in names)
        for _ in range(2):
            page.wait_for_timeout(SECOND)
            watched.settle()
        assert f"compare={expected}" in unquote(page.url)


def test_every_page_in_the_dark(dashboard: str, browser: Browser) -> None:
    watched = Watched(browser, scheme="dark")
    page = watched.page
    for name, title in PAGES.items():
        page.goto(f"{dashboard}/{'' if name == 'start' else name.replace('_', '-')}?run=small")
        page.get_by_role("heading", level=1).first.wait_for(timeout=120 * SECOND)
        if name == "results":  # it has no pictures, whose colours are tested apart
            watched.settle()
        ground = page.evaluate("() => getComputedStyle(document.querySelector('[data-testid=stApp]')).backgroundColor")
        ink = page.get_by_role("heading", level=1).first.evaluate("it => getComputedStyle(it).color")
        light = [sum(int(part) for part in colour[4:-1].split(",")) for colour in (ground, ink)]
        assert light[0] < 150 < 600 < light[1], title
        watched.keep(f"{name.replace('_', '-')}-dark")
    assert watched.complaints == []
    watched.context.close()


def test_hovering_one_picture_marks_the_token_in_the_others(dashboard: str, watched: Watched) -> None:
    page = watched.page
    page.goto(f"{dashboard}/eviction-map?run=small&step=300")
    drawn(page, 2)
    watched.settle()
    marks, framed = page.locator(".treekv-mark"), page.locator("[role=region] span[style*=outline]")

    def place(what: Locator, right: float, down: float, aside: float = 0.0) -> tuple[float, float]:
        box = what.bounding_box()
        assert box is not None
        return box["x"] + right * box["width"] + aside, box["y"] + down * box["height"]

    def hover(what: Locator, right: float, down: float) -> None:
        page.mouse.move(*place(what, right, down))

    hover(page.locator(".nsewdrag").first, 0.4, 0.9)  # in the map: marked in density and text
    expect(marks).to_have_count(1)
    in_map = marks.inner_text()
    expect(framed).to_have_attribute("title", re.compile(rf"^{in_map}: "))
    assert 0 < int(in_map.split()[1].replace(",", "")) < 300

    hover(page.locator(".nsewdrag").nth(1), 0.9, 0.5)  # in the density: a token far back
    expect(marks).not_to_have_text(in_map)
    expect(marks).to_have_count(1)
    expect(framed).to_have_attribute("title", re.compile(rf"^{marks.inner_text()}: "))

    framed.hover()  # in the text, where it was scrolled to: both figures
    expect(marks).to_have_count(2)
    assert len(set(marks.all_inner_texts())) == 1

    slider = page.get_by_role("slider", name="Step (tokens read so far)")
    for _ in range(3):  # each draws the pictures anew
        slider.press("ArrowLeft")
        watched.settle()
    hover(page.locator(".nsewdrag").first, 0.4, 0.9)
    for _ in range(3):  # within one token: no listener of an earlier step takes the marks away
        page.mouse.move(*place(page.locator(".nsewdrag").first, 0.4, 0.9, 0.2))
        page.wait_for_timeout(100)
        expect(marks).to_have_count(1)

    page.mouse.move(5, 5)
    expect(marks).to_have_count(0)
    expect(framed).to_have_count(0)
    assert watched.complaints == []
