"""The eviction map's controls over time: text, density and tree at a step, playing, and the two themes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import analysis
from app.text.wording import titled
from tests.app.conftest import EVIL
from tests.app.pages import EVICTION_MAP, WAVELETS, alternatives, opened, sheets


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


@pytest.mark.parametrize("view", ["Density", "Tree"])
def test_the_other_views_draw_the_same_step(small_run: Path, monkeypatch: pytest.MonkeyPatch, view: str) -> None:
    test = opened(small_run, monkeypatch, EVICTION_MAP, step="200")
    test.segmented_control(key="view").set_value(view).run()
    retention = analysis.open(small_run / "retention.nc")
    expected = {
        "Density": lambda: analysis.plot.density(titled(retention), step=199),
        "Tree": lambda: analysis.plot.tree(titled(retention), policy="TreeKV", step=199),
    }[view]()
    assert alternatives(test)[1:] == [expected.layout.meta["alt"]]
    assert not sheets(test)
