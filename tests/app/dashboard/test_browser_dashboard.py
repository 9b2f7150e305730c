"""The dashboard in a real browser as a user goes through it, with what can go wrong on the way."""

from __future__ import annotations

import json
import re
import shutil
import socket
import sys
import time
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from app.dashboard.pages import PAGES
from app.dashboard.server.serve import has_screen, own_names
from tests.app.browsing import SECOND, Watched, drawn, handshake, served

MOST_BYTES = 3_000_000
expect.set_options(timeout=120 * SECOND)


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


def test_pages_of_4096_tokens_are_light(long_run: Path, browser: Browser, tmp_path: Path) -> None:
    with served(long_run, tmp_path) as address:
        for path, pictures in (("wavelets", 7), ("eviction-map", 2), ("eviction-map?layer=0&head=0", 2)):
            watched = Watched(browser)
            watched.page.goto(f"{address}/{path}")
            begun = time.perf_counter()
            drawn(watched.page, pictures)
            print(
                f"\n{path}: {watched.bytes:,} bytes; drawn {time.perf_counter() - begun:.1f} s after the page was there"
            )
            assert 10_000 < watched.bytes < MOST_BYTES
            assert watched.complaints == []
            watched.context.close()


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
        watched.settle()
        page.get_by_role("heading", level=1).first.wait_for(timeout=120 * SECOND)
        page.wait_for_timeout(SECOND)
        watched.settle()
        ground = page.evaluate("() => getComputedStyle(document.querySelector('[data-testid=stApp]')).backgroundColor")
        ink = page.get_by_role("heading", level=1).first.evaluate("it => getComputedStyle(it).color")
        light = [sum(int(part) for part in colour[4:-1].split(",")) for colour in (ground, ink)]
        assert light[0] < 150 < 600 < light[1], title
        watched.keep(f"{name.replace('_', '-')}-dark")
    assert watched.complaints == []
    watched.context.close()


def test_a_damaged_run_by_link_is_a_sentence_and_the_pages_go_on(
    small_run: Path, browser: Browser, tmp_path: Path
) -> None:
    for name in ("good", "cut", "bad"):
        shutil.copytree(small_run, tmp_path / "runs" / name)
    spectrum, manifest = tmp_path / "runs" / "cut" / "spectrum.nc", tmp_path / "runs" / "bad" / "run.json"
    spectrum.write_bytes(spectrum.read_bytes()[:1000])
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"text": {"tokens": "many"}}))
    watched = Watched(browser)
    page = watched.page
    with served(tmp_path / "runs" / "good", tmp_path) as address:
        page.goto(f"{address}/wavelets?run=cut")
        said = page.get_by_test_id("stAlert").filter(has_text="cut/spectrum.nc")
        said.wait_for(timeout=120 * SECOND)
        assert str(tmp_path) not in said.inner_text()
        page.get_by_test_id("stSidebarNavLink").filter(has_text="Eviction map").click()
        drawn(page, 2)
        for place in ("", "wavelets"):
            page.goto(f"{address}/{place}?run=bad")
            page.get_by_test_id("stAlert").filter(has_text="'tokens' must be a whole number, got 'many'").wait_for(
                timeout=120 * SECOND
            )
        page.get_by_role("link", name="Go to Start").click()
        page.locator(".st-key-open-cut").wait_for(timeout=120 * SECOND)
        assert page.locator(".st-key-open-bad").count() == 0
        page.locator(".st-key-open-good button").first.click()
        page.get_by_text("Open: good").wait_for(timeout=120 * SECOND)
        watched.settle()
        assert page.get_by_test_id("stAlert").count() == 0
    assert watched.complaints == []
    watched.context.close()


def test_bad_input_is_a_sentence_and_the_page_goes_on(
    dashboard: str, watched: Watched, small_run: Path, tmp_path: Path
) -> None:
    page = watched.page
    page.goto(dashboard)
    watched.settle()

    def refused(words: str) -> None:
        page.get_by_role("button", name="Make the run").click()
        page.get_by_test_id("stAlert").filter(has_text=words).wait_for(timeout=120 * SECOND)

    number(watched, "Budget", 5000)
    refused("evicts nothing from 1,024")
    number(watched, "Budget", 3)
    refused("cache_size 3 minus sink_size 4")
    number(watched, "Budget", 64)
    page.get_by_role("radio", name="Paste").click()
    watched.settle()
    refused("the text is empty")
    page.get_by_role("radio", name="Upload").click()
    watched.settle()
    large = tmp_path / "large.txt"
    with large.open("wb") as file:
        file.truncate(50_000_000)
    page.locator("input[type=file]").set_input_files(large)
    page.get_by_text("File must be 5.0MB or smaller").wait_for(timeout=120 * SECOND)
    page.get_by_role("radio", name="Sample").click()
    watched.settle()
    model = page.get_by_role("combobox", name="Model")
    model.fill("nobody/no-such-model")
    model.press("Enter")
    watched.settle()
    refused("'nobody/no-such-model' is no alias")
    assert watched.hosts - {""} == {"127.0.0.1"}

    page.goto(f"{dashboard}/wavelets?run=..")
    page.get_by_text("'..' cannot be the name of a run").wait_for(timeout=120 * SECOND)
    page.goto(f"{dashboard}/wavelets?run=gone")
    page.get_by_text("there is no run 'gone' here").wait_for(timeout=120 * SECOND)


def test_a_server_on_all_addresses_is_usable_over_this_machines_own(
    small_run: Path, browser: Browser, tmp_path: Path
) -> None:
    others = [name for name in own_names() if re.fullmatch(r"[\d.]+", name) and not name.startswith("127.")]
    if not others:
        pytest.skip("this machine has no address besides loopback, so nobody can reach it over another")
    with served(small_run, tmp_path, "--host", "0.0.0.0", "--allow-host", "runs.example.org") as address:
        port = urlsplit(address).port
        assert port is not None
        watched = Watched(browser)
        watched.page.goto(f"http://{others[0]}:{port}/eviction-map")
        assert drawn(watched.page, 2)
        assert watched.complaints == []
        assert watched.hosts - {""} == {others[0]}
        watched.context.close()
        names = ("127.0.0.1", socket.gethostname(), "runs.example.org", "evil.invalid")
        assert [handshake(port, f"{name}:{port}", others[0]) for name in names] == [101, 101, 101, 403]
    said = (tmp_path / "log").read_text()
    assert f"Anyone who can reach this machine can see all runs below {small_run.parent}" in said


def test_the_users_browser_is_sent_to_the_address_and_nothing_is_offered_there(
    small_run: Path, browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Streamlit offers files to people who have a coding agent."""
    opener, home = tmp_path / "opener", tmp_path / "home"
    opener.write_text(f'#!/bin/sh\necho "$1" > "{tmp_path}/opened"\n')
    opener.chmod(0o755)
    (home / ".claude").mkdir(parents=True)
    monkeypatch.setenv("BROWSER", str(opener))
    monkeypatch.setenv("HOME", str(home))
    with served(small_run, tmp_path, "--browser") as address:
        watched = Watched(browser)
        watched.page.goto(f"{address}/eviction-map")
        assert drawn(watched.page, 2)
        assert watched.page.get_by_test_id("stSkillsNudge").count() == 0
        watched.context.close()
    assert (tmp_path / "opened").read_text().strip() == address
    said = (tmp_path / "log").read_text()
    assert f"Dashboard: {address} (Ctrl-C stops it)" in said
    assert "Streamlit" not in said


@pytest.mark.parametrize(
    "platform, screen, shown", [("linux", {}, False), ("linux", {"DISPLAY": ":0"}, True), ("darwin", {}, True)]
)
def test_without_a_screen_no_browser_is_opened(
    platform: str, screen: dict[str, str], shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    for name, value in screen.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert has_screen() is shown


def test_a_run_goes_on_when_its_tab_is_closed_and_is_found_again(dashboard: str, browser: Browser) -> None:
    one, two = Watched(browser), Watched(browser)
    one.page.goto(dashboard)
    number(one, "Tokens", 2048)
    one.page.get_by_role("button", name="Make the run").click()
    stop(one.page).wait_for()
    one.context.close()
    two.page.goto(dashboard)
    two.page.get_by_text("Making smollm2-sample-2048").wait_for()
    stop(two.page).click()
    two.page.get_by_text("Stopped.").wait_for()
