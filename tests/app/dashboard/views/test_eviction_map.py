"""The eviction map's controls over time: text, density and tree at a step, playing, and the two themes."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

import analysis
from app.dashboard.actions import find
from app.dashboard.widgets import figure
from app.text.wording import titled
from tests.app.conftest import EVIL
from tests.app.pages import EVICTION_MAP, WAVELETS, alternatives, ended, figures, opened, said, sheets


def test_text_that_scrolls_is_a_region_with_a_name(small_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = []
    for page in (EVICTION_MAP, WAVELETS):
        test = opened(small_run, monkeypatch, page, positions=["50", "150"])
        names += [re.findall(r'<div role="region" aria-label="([^"]*)" tabindex="0"', text) for text in sheets(test)]
    assert names == [["The text, shaded by what is kept"], ["The text of positions 50 to 149"]]


def test_the_text_is_shaded_as_it_stood_at_the_step(small_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test = opened(small_run, monkeypatch, EVICTION_MAP, step="200", layer="1", head="3")
    retention = analysis.open(small_run / "retention.nc")
    for count in (200, 90):
        test.slider(key="step").set_value(count).run()
        expected = analysis.plot.text_retention(titled(retention), policy="TreeKV", step=count - 1, layer=1, head=1)
        assert len(sheets(test)) == 1
        assert expected in sheets(test)[0]


def test_token_text_never_becomes_markup(small_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test = opened(small_run, monkeypatch, EVICTION_MAP)
    assert "&lt;/script&gt;&lt;img/src=" in sheets(test)[0]
    assert EVIL not in sheets(test)[0]


def test_map_density_and_text_follow_one_slider_and_the_tree_is_in_words(
    small_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = opened(small_run, monkeypatch, EVICTION_MAP, step="200")
    retention = titled(analysis.open(small_run / "retention.nc"))
    drawn = figures(test)
    assert drawn[0]["layout"]["shapes"][0]["y0"] == 199  # the line on the map
    assert drawn[1]["layout"]["meta"]["alt"] == analysis.plot.density(retention, step=199).layout.meta["alt"]
    assert "flex-direction:column-reverse" in sheets(test)[0]  # scrolled to the reading front

    test.segmented_control(key="view").set_value("Tree").run()
    expected = analysis.plot.tree(retention, policy="TreeKV", step=199)
    assert alternatives(test) == [expected.layout.meta["alt"]] and not sheets(test)
    position = test.selectbox(key="family").value
    sizes = analysis.eviction_tree(retention, 199)["size"].sel(policy="TreeKV").isel(layer=0, head=0)
    shown = [int(option.split("(")[1].split(")")[0]) for option in test.selectbox(key="family").options]
    assert sizes[position] == max(sizes[shown]) > 1
    for sentence in analysis.family_in_words(retention, position, policy="TreeKV", step=199):
        assert sentence in said(test, "markdown")

    test.segmented_control(key="view").set_value("All heads").run()
    assert alternatives(test) == [analysis.plot.head_maps(retention, policy="TreeKV", step=199).layout.meta["alt"]]


def test_a_phrase_is_found_in_one_sentence(small_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test = opened(small_run, monkeypatch, EVICTION_MAP)
    retention = titled(analysis.open(small_run / "retention.nc"))
    word = str(retention["token"].values[100]).strip()
    test.text_input(key="phrase").set_value(word).run()
    found = analysis.forgotten(retention, word)
    assert found.sizes["occurrence"] > 1
    assert analysis.forgotten_in_words(found) in said(test, "markdown")
    test.selectbox(key="occurrence").select(1).run()
    assert analysis.forgotten_in_words(found, 1) in said(test, "markdown")
    expected = analysis.plot.forgotten(found.isel(occurrence=[1]))
    assert alternatives(test)[-1] == expected.layout.meta["alt"]
    test.text_input(key="phrase").set_value("<b>not there").run()
    assert "\u201c<b>not there\u201d is not in the text of 320 tokens" in said(test, "info")
    assert not test.exception


def test_the_most_costly_evictions_are_listed_on_request(small_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test = opened(small_run, monkeypatch, EVICTION_MAP)
    test.button(key="list-regrets").click().run()
    ended(test, find.REGRET_JOB)
    retention = titled(analysis.open(small_run / "retention.nc")).sel(policy=["TreeKV"])
    captured = analysis.open(small_run / "capture.nc")
    expected = analysis.most_costly(captured, retention, analysis.regret(captured, retention), "TreeKV")
    assert len(expected) > 3
    assert all(sentence in said(test, "markdown") for sentence in expected)


def test_another_run_stands_beside_this_one(small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(small_run, tmp_path / "small")
    shutil.copytree(small_run, tmp_path / "other")
    record = analysis.open(tmp_path / "other" / "retention.nc")
    shorter = record.isel(position=slice(0, 150)).sel(policy=["streaming"]).assign_attrs(steps=150)
    analysis.save(shorter.assign_coords(layer=[0, 7]), tmp_path / "other" / "retention.nc")
    test = opened(tmp_path / "small", monkeypatch, EVICTION_MAP, layer="1", step="200")
    test.selectbox(key="beside").select("other").run()
    shown = titled(analysis.open(tmp_path / "other" / "retention.nc"))
    expected = [
        analysis.plot.eviction_map(shown, policy="StreamingLLM").layout.meta["alt"],
        analysis.plot.density(shown, step=149).layout.meta["alt"],
    ]
    assert alternatives(test)[2:4] == expected and len(sheets(test)) == 2
    assert figures(test)[2]["layout"]["shapes"][0]["y0"] == 149
    assert "Second: other, StreamingLLM, 150 tokens" in said(test, "caption")


def test_a_click_on_a_head_is_its_layer_and_head(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(figure.st, "session_state", {"it": {"selection": {"points": [{"customdata": [1, 3]}]}}})
    figure._choose_clicked("it", lambda *pair: asked.append(pair))
    monkeypatch.setattr(figure.st, "session_state", {"it": {"selection": {"points": []}}})
    figure._choose_clicked("it", lambda *pair: asked.append(pair))
    assert asked == [(1, 3)]
