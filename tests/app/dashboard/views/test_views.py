"""The pages' logic without a browser: what is drawn for which choice, the empty state, the error states."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import analysis
from app.dashboard.session.messages import plain
from app.text.wording import claim_words, titled
from tests.app.pages import EVICTION_MAP, WAVELETS, alternatives, figures, opened, said
from treekv import TreeKVConfig


def test_the_wavelets_page_draws_its_pictures(small_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test = opened(small_run, monkeypatch, WAVELETS)
    spectrum, trends = analysis.open(small_run / "spectrum.nc"), analysis.open(small_run / "trends.nc")
    beyond = analysis.open(small_run / "trends-to-the-last-token.nc")
    plot = analysis.plot
    captured, kept = analysis.open(small_run / "capture.nc"), TreeKVConfig.load(small_run / "settings.json").cache_size
    need = plot.need_budgets(analysis.need_budgets(analysis.need(captured), kept))
    drawn = (plot.spectrum, plot.coefficients, plot.sinks, plot.growth_grid)
    expected = [*(make(spectrum) for make in drawn), need, plot.trends(trends), plot.trends(beyond)]
    assert alternatives(test) == [figure.layout.meta["alt"] for figure in expected]
    assert f"in every band: **{trends.attrs['claim_i']}**" in test.markdown[0].value
    assert f"in the highest bands: **{claim_words(trends.attrs)[1]}**" in test.markdown[0].value
    captions = [caption.value for caption in test.main.get("caption")]
    assert f"the factor {trends.attrs['ratio_step']:.3f}" in captions[0]
    assert f"claim (ii) {beyond.attrs['claim_ii']}, most growth in {beyond.attrs['claim_ii_top_band']}" in captions[1]
    assert len([caption for caption in captions if caption.startswith("Each ")]) == 6


def test_the_choice_of_layer_and_head_is_drawn(small_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test = opened(small_run, monkeypatch, WAVELETS)
    before = alternatives(test)
    test.selectbox(key="layer").select("1").run()
    test.selectbox(key="head").select("2").run()
    spectrum = analysis.open(small_run / "spectrum.nc")
    assert alternatives(test)[0] == analysis.plot.spectrum(spectrum, layer=1, head=2).layout.meta["alt"]
    assert alternatives(test) != before
    assert test.selectbox(key="layer").options == ["all", "0", "1"]
    assert test.selectbox(key="head").options == ["all", "0", "1", "2", "3"]


@pytest.mark.parametrize(("head", "kv_head"), [("0", 0), ("1", 0), ("2", 1), ("3", 1)])
def test_the_eviction_map_shows_the_kv_head_that_serves_the_query_head(
    small_run: Path, monkeypatch: pytest.MonkeyPatch, head: str, kv_head: int
) -> None:
    test = opened(small_run, monkeypatch, EVICTION_MAP, layer="1", head=head, policy="TreeKV")
    retention = analysis.open(small_run / "retention.nc")
    expected = analysis.plot.eviction_map(titled(retention), policy="TreeKV", layer=1, head=kv_head)
    assert alternatives(test)[0] == expected.layout.meta["alt"]
    assert f"Query head {head} reads KV head {kv_head}" in test.main.get("caption")[0].value


def test_the_eviction_map_starts_with_treekv_and_changes_with_the_policy(
    small_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = opened(small_run, monkeypatch, EVICTION_MAP)
    retention = analysis.open(small_run / "retention.nc")
    assert alternatives(test)[0] == analysis.plot.eviction_map(titled(retention), policy="TreeKV").layout.meta["alt"]
    test.segmented_control(key="policy").set_value("streaming").run()
    window = analysis.plot.eviction_map(titled(retention), policy="StreamingLLM")
    assert alternatives(test)[0] == window.layout.meta["alt"]


@pytest.mark.parametrize("page", [WAVELETS, EVICTION_MAP])
def test_without_a_run_the_page_leads_to_the_first(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    test = opened(None, monkeypatch, page)
    assert not test.exception
    assert test.title[0].value == "No run yet"
    assert test.get("page_link")[0].proto.label == "Go to Start"
    assert not test.get("plotly_chart")


@pytest.mark.parametrize("page", [WAVELETS, EVICTION_MAP])
@pytest.mark.parametrize("name", ["spectrum.nc", "retention.nc", "trends.nc", "run.json"])
@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_damaged_run_is_one_sentence(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: str, name: str, damage: str
) -> None:
    needed = {WAVELETS: {"spectrum.nc", "trends.nc", "run.json"}, EVICTION_MAP: {"retention.nc", "run.json"}}
    run = tmp_path / "run"
    shutil.copytree(small_run, run)
    if damage == "missing":
        (run / name).unlink()
    else:
        (run / name).write_bytes((run / name).read_bytes()[:100])
    test = opened(run, monkeypatch, page)
    assert not test.exception
    if name in needed[page]:
        assert len(test.error) == 1
        assert plain(name) in test.error[0].value
        assert "/" not in test.error[0].value.replace("run/", "")  # named from the folder of runs on
    else:
        assert not test.error
        assert test.get("plotly_chart")


def test_a_run_that_is_made_again_is_read_again(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(small_run, run)
    test = opened(run, monkeypatch, WAVELETS)
    before = figures(test)[0]["data"][0]["y"]
    spectrum = analysis.open(run / "spectrum.nc")
    spectrum["amplitude"] *= 2
    analysis.save(spectrum, run / "spectrum.nc")
    assert figures(test.run())[0]["data"][0]["y"] != before


@pytest.mark.parametrize("damage", ["settings.json", "capture.nc"])
@pytest.mark.parametrize("page", ["views/compare.py", "views/take_away.py"])
def test_no_page_says_where_on_the_server_the_runs_lie(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: str, damage: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(small_run, run)
    (run / damage).write_text("{")
    test = opened(run, monkeypatch, page)
    assert not test.exception
    elements = (*test.error, *test.warning, *test.info, *test.main.get("caption"))
    said = " ".join(element.value.replace("\\", "") for element in elements)
    assert damage in said
    assert str(tmp_path) not in said


def test_with_a_layer_and_head_selected_their_own_growth_is_said(
    small_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    growth = analysis.open(small_run / "trends.nc")["growth_by_head"].sel(layer=1, head=2)
    test = opened(small_run, monkeypatch, WAVELETS, layer="1", head="2")
    each = ", ".join(f"{band} {float(growth.sel(band=band)):.2f}" for band in growth["band"].values[::-1])
    assert f"In layer 1, head 2 alone {int((growth > 1).sum())} of {growth.size} bands grow" in said(test, "markdown")
    assert f": {each} times." in said(test, "markdown")
    assert "alone" not in said(opened(small_run, monkeypatch, WAVELETS), "markdown")


def test_the_growth_of_a_head_is_said_where_the_verdict_is_over_samples(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(small_run, run)
    pooled = analysis.open(run / "trends.nc").drop_vars("growth_by_head").load()
    analysis.save(pooled, run / "trends.nc")
    growth = analysis.open(run / "trends-to-the-last-token.nc")["growth_by_head"].sel(layer=1, head=2)
    test = opened(run, monkeypatch, WAVELETS, layer="1", head="2")
    assert f"In layer 1, head 2 alone {int((growth > 1).sum())} of {growth.size} bands grow" in said(test, "markdown")
