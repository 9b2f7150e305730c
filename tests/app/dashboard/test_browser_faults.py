"""What can go wrong in the dashboard, and who may reach it, in a real browser."""

from __future__ import annotations

import json
import re
import shutil
import socket
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, expect

from app.dashboard.server.serve import has_screen, own_names
from tests.app.browsing import SECOND, Watched, drawn, handshake, number, served

expect.set_options(timeout=120 * SECOND)


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
    refused("Budget 3 minus Sinks 4")
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
@pytest.mark.slow
def test_without_a_screen_no_browser_is_opened(
    platform: str, screen: dict[str, str], shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    for name, value in screen.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert has_screen() is shown
