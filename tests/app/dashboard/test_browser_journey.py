"""The way through the dashboard in a real browser, from a new run to its settings."""

from __future__ import annotations

import json
from pathlib import Path

from playwright.sync_api import Browser, expect

from app.dashboard.pages import PAGES
from tests.app.browsing import SECOND, Watched, drag, drawn, number, stop

MOST_BYTES = 3_000_000
expect.set_options(timeout=120 * SECOND)


def test_from_start_to_take_away_on_real_words(dashboard: str, watched: Watched, shallow: Path) -> None:
    page = watched.page
    page.goto(dashboard)
    watched.settle()
    assert page.get_by_test_id("stSidebarNavLink").all_text_contents() == list(PAGES.values())
    weights = {}

    def weigh(name: str) -> None:
        watched.settle()
        weights[name], watched.bytes = watched.bytes, 0
        watched.keep(name.lower().replace(" ", "-"))

    def go(name: str) -> None:
        watched.bytes = 0
        page.get_by_test_id("stSidebarNavLink").filter(has_text=name).click()
        page.get_by_role("heading", name=name, exact=True, level=1).wait_for(timeout=120 * SECOND)

    model = page.get_by_role("combobox", name="Model")
    model.fill(str(shallow))
    model.press("Enter")
    number(watched, "Tokens", 256)
    number(watched, "Budget", 32)
    page.get_by_role("button", name="Make the run").click()
    page.get_by_text("The run was made and is open.").wait_for(timeout=400 * SECOND)
    assert "run=shallow-sample-256" in page.url
    weigh("Start")

    go("Wavelets")
    drawn(page, 7)
    weigh("Wavelets")
    drag(page, 0, 0.5, 0.75)
    page.get_by_text("The text of positions").wait_for(timeout=120 * SECOND)
    assert "positions=" in page.url
    page.get_by_role("button", name="Show the whole text").click()
    page.get_by_text("The text of positions").wait_for(state="detached", timeout=120 * SECOND)

    go("Eviction map")
    drawn(page, 2)
    weigh("Eviction map")
    page.get_by_role("button", name="Play").click()
    slider = page.get_by_role("slider", name="Step (tokens read so far)")
    expect(slider).not_to_have_value("256")
    expect(slider).not_to_have_value(slider.input_value())
    stop(page).click()
    page.get_by_role("button", name="Play").wait_for(timeout=120 * SECOND)

    go("Compare")
    drawn(page, 1)
    weigh("Compare")
    page.get_by_role("button", name="Use this configuration").click()
    watched.settle()

    go("Generate")
    page.get_by_role("button", name="Generate", exact=True).click()
    page.get_by_role("heading", name="First difference").wait_for(timeout=120 * SECOND)
    weigh("Generate")

    go("Export")
    watched.settle()  # a page that is still being made takes its first files back
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download settings.json").click()
    settings = json.loads(Path(waiting.value.path()).read_text())
    assert (settings["policy"], settings["cache_size"]) == ("tree", 32)
    weigh("Export")

    assert watched.complaints == []
    assert watched.hosts - {""} == {"127.0.0.1"}
    print("\nbytes sent by page:", weights)
    assert max(weights.values()) < MOST_BYTES


def test_a_run_goes_on_when_its_tab_is_closed_and_is_found_again(
    dashboard: str, browser: Browser, shallow: Path
) -> None:
    one, two = Watched(browser), Watched(browser)
    one.page.goto(dashboard)
    model = one.page.get_by_role("combobox", name="Model")
    model.fill(str(shallow))
    model.press("Enter")
    number(one, "Tokens", 2048)
    one.page.get_by_role("button", name="Make the run").click()
    stop(one.page).wait_for()
    one.context.close()
    two.page.goto(dashboard)
    two.page.get_by_text("Making shallow-sample-2048").wait_for()
    stop(two.page).click()
    two.page.get_by_text("Stopped.").wait_for()
