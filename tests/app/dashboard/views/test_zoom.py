"""A stretch of positions in all pictures, other wavelets, the real run as a policy, and the weight of a page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import analysis
from app.text.wording import titled
from tests.app.conftest import EVIL
from tests.app.pages import EVICTION_MAP, WAVELETS, alternatives, figures, opened, sheets, zoomed

MOST_BYTES = 3_000_000


def test_the_wavelet_pictures_and_the_text_show_the_stretch(small_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test = zoomed(small_run, monkeypatch, WAVELETS, 200, 320)
    spectrum = analysis.open(small_run / "spectrum.nc")
    expected = [make(spectrum, start=200) for make in (analysis.plot.spectrum, analysis.plot.coefficients)]
    assert alternatives(test)[:2] == [figure.layout.meta["alt"] for figure in expected]
    sheet = sheets(test)[0]
    assert "&lt;/script&gt;&lt;img/src=" in sheet  # the token that tries to break out is number 315
    assert EVIL not in sheet
    next(button for button in test.button if button.label == "Show the whole text").click().run()
    assert alternatives(test)[0] == analysis.plot.spectrum(spectrum).layout.meta["alt"]
    assert sheets(test) == []


def test_the_eviction_map_its_text_and_its_tree_show_the_stretch(
    small_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = zoomed(small_run, monkeypatch, EVICTION_MAP, 100, 150, step="200")
    retention = analysis.open(small_run / "retention.nc")
    drawn = titled(retention)
    assert alternatives(test) == [
        analysis.plot.eviction_map(drawn, policy="TreeKV", start=100, stop=150).layout.meta["alt"],
        analysis.plot.density(drawn, start=100, stop=150, step=199).layout.meta["alt"],
    ]
    assert (
        analysis.plot.text_retention(titled(retention), policy="TreeKV", step=199, start=100, stop=150)
        in sheets(test)[0]
    )
    test.segmented_control(key="view").set_value("Tree").run()
    tree = analysis.plot.tree(titled(retention), policy="TreeKV", start=100, stop=150, step=199)
    assert alternatives(test) == [tree.layout.meta["alt"]]
    test.slider(key="step").set_value(90).run()
    assert "No position from 100 on has been read yet" in test.info[0].value


def test_another_band_draws_the_grid_of_heads(small_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test = opened(small_run, monkeypatch, WAVELETS)
    test.segmented_control(key="band").set_value("D2").run()
    spectrum = analysis.open(small_run / "spectrum.nc")
    assert analysis.plot.growth_grid(spectrum, band="D2").layout.meta["alt"] in alternatives(test)


def test_the_trace_of_a_real_run_is_one_more_policy(small_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    retention = analysis.open(small_run / "retention.nc")
    real = retention.sel(policy=["streaming"]).isel(position=slice(0, 100))
    real = real.assign_coords(policy=["tree (real run)"]).assign_attrs(steps=100)
    real["evicted_at"] = real["evicted_at"].where(real["evicted_at"] < 100, -1)
    test = opened(small_run, monkeypatch, step="300")
    test.session_state["real_trace"] = real
    test.switch_page(EVICTION_MAP).run()
    test.segmented_control(key="policy").set_value("tree (real run)").run()
    expected = analysis.plot.eviction_map(titled(real), policy="TreeKV (real run)")
    assert alternatives(test)[0] == expected.layout.meta["alt"]
    assert test.slider(key="step").value == test.slider(key="step").max == 100


def test_a_page_of_4096_tokens_and_many_heads_stays_light(long_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for page in (WAVELETS, EVICTION_MAP):
        test = opened(long_run, monkeypatch, page)
        weight = sum(len(json.dumps(figure)) for figure in figures(test)) + sum(map(len, sheets(test)))
        print(f"{page}: {weight:,} bytes of pictures and text")
        assert 10_000 < weight < MOST_BYTES
