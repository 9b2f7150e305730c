"""A stretch of positions in all pictures, other wavelets, the real run as a policy, and the weight of a page."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

import analysis
from app.dashboard.actions import transform
from app.dashboard.session.messages import plain
from app.dashboard.session.run import policy_label
from app.dashboard.widgets.figure import _zoom_to_selection
from app.text.wording import titled
from tests.app.conftest import EVIL
from tests.app.dashboard.views.test_eviction_map import sheets
from tests.app.dashboard.views.test_views import EVICTION_MAP, WAVELETS, alternatives, figures, opened

MOST_BYTES = 3_000_000


def zoomed(run: Path, monkeypatch: pytest.MonkeyPatch, page: str, first: int, last: int, **query: str) -> AppTest:
    test = opened(run, monkeypatch, **query)
    test.session_state["positions"] = (first, last)
    return test.switch_page(page).run()


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
    assert alternatives(test) == [
        analysis.plot.eviction_map(titled(retention), policy="TreeKV", start=100, stop=150).layout.meta["alt"]
    ]
    assert (
        analysis.plot.text_retention(titled(retention), policy="TreeKV", step=199, start=100, stop=150)
        in sheets(test)[0]
    )
    test.segmented_control(key="view").set_value("Tree").run()
    tree = analysis.plot.tree(titled(retention), policy="TreeKV", start=100, stop=150, step=199)
    assert alternatives(test)[1] == tree.layout.meta["alt"]
    test.slider(key="step").set_value(90).run()
    assert "No position from 100 on has been read yet" in test.info[0].value


@pytest.mark.parametrize(
    ("box", "before", "after"),
    [
        ([100.4, 180.2], None, (100, 182)),
        ([180.2, 100.4], None, (100, 182)),
        ([-40.0, 90.0], (20, 200), (20, 91)),
        ([150.0, 900.0], (20, 200), (150, 200)),
        ([100.0, 101.0], (20, 200), (20, 200)),
        (None, (20, 200), (20, 200)),
    ],
)
def test_a_drag_chooses_whole_positions_within_what_is_shown(
    monkeypatch: pytest.MonkeyPatch, box: list | None, before: tuple | None, after: tuple
) -> None:
    state = {"picture": {"selection": {"box": [] if box is None else [{"x": box}]}}}
    if before:
        state["positions"] = before
    monkeypatch.setattr(st, "session_state", state)
    _zoom_to_selection("picture")
    assert state["positions"] == after


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        (["300", "50"], (50, 300)),
        (["100", "100"], (100, 116)),
        (["0", "0"], (0, 16)),
        (["320", "320"], (304, 320)),
        (["100", "9999"], (100, 320)),
        (["5000", "9" * 5000], (0, 320)),
        (["x", "y"], (0, 320)),
        (["5"], (0, 320)),
    ],
)
@pytest.mark.parametrize("page", [WAVELETS, EVICTION_MAP])
def test_a_stretch_in_a_link_that_cannot_be_drawn_is_put_right(
    small_run: Path, monkeypatch: pytest.MonkeyPatch, page: str, asked: list[str], shown: tuple[int, int]
) -> None:
    test = opened(small_run, monkeypatch, page, positions=asked)
    assert not test.error
    assert test.sidebar.slider[0].value == test.session_state["positions"] == shown
    retention, spectrum = (analysis.open(small_run / "retention.nc"),
                           analysis.open(small_run / "spectrum.nc"))  # fmt: skip
    start, stop = shown[0] or None, shown[1] if shown[1] < 320 else None
    expected = (
        analysis.plot.spectrum(spectrum, start=start, stop=stop)
        if page == WAVELETS
        else analysis.plot.eviction_map(titled(retention), policy="TreeKV", start=start, stop=stop)
    )
    assert alternatives(test)[0] == expected.layout.meta["alt"]


@pytest.mark.parametrize(
    ("moved", "shown"), [((0, 0), (0, 16)), ((320, 320), (304, 320)), ((90, 95), (90, 106)), ((7, 23), (7, 23))]
)
def test_handles_moved_onto_each_other_still_draw(
    small_run: Path, monkeypatch: pytest.MonkeyPatch, moved: tuple[int, int], shown: tuple[int, int]
) -> None:
    test = opened(small_run, monkeypatch, WAVELETS)
    test.sidebar.slider[0].set_value(moved).run()
    assert not test.error
    assert not test.warning
    assert test.sidebar.slider[0].value == shown
    assert len(alternatives(test)) == 5


def test_what_a_link_asks_for_in_vain_is_said_once(small_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test = opened(
        small_run, monkeypatch, EVICTION_MAP,
        layer="999", head="![x](y)", policy="nobody", step="9999", positions=["100", "100"],
    )  # fmt: skip
    assert [warning.value.replace("\\", "") for warning in test.warning] == [
        "The link asks for something that this run does not have: layer 999 (all are shown); head "
        "![x](y) (all are shown); positions 100 to 100 (100 to 116 are shown); "
        "the policy nobody (TreeKV is shown); step 9999 (the last, 320, "
        "is shown)."
    ]
    assert "\\!\\[x\\]" in test.warning[0].value
    retention = analysis.open(small_run / "retention.nc")
    expected = analysis.plot.eviction_map(titled(retention), policy="TreeKV", start=100, stop=116)
    assert alternatives(test) == [expected.layout.meta["alt"]]
    assert test.slider(key="step").value == 320
    test.slider(key="step").set_value(200).run()
    assert not test.warning


def test_a_link_to_anothers_generation_says_whose_it_is(small_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test = opened(small_run, monkeypatch, EVICTION_MAP, policy="TreeKV (real run)")
    assert "TreeKV (real run), which exists only in the session that generated it" in test.warning[0].value.replace(
        "\\", ""
    )


def test_a_link_to_what_is_there_is_taken_without_a_word(small_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"layer": "1", "head": "3", "policy": "StreamingLLM", "step": "200", "positions": ["50", "150"]}
    test = opened(small_run, monkeypatch, EVICTION_MAP, **asked)
    assert not test.warning
    assert test.slider(key="step").value == 200
    assert test.segmented_control(key="policy").value == "streaming"


def test_labels_of_policies_are_plain_in_an_address_and_never_markdown() -> None:
    assert policy_label("tree (real run)") == "TreeKV (real run)"
    assert policy_label("streaming") == "StreamingLLM"
    for name in ("![x](http://example.invalid)", "- a", "*a*", ":red[a]", EVIL):
        assert policy_label(name) == plain(name)


def test_another_wavelet_is_computed_from_the_capture(small_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transform._results.clear()
    test = opened(small_run, monkeypatch, WAVELETS)
    test.selectbox(key="wavelet").select("db2").run()
    job = test.session_state["transforming"][1]
    while not job.ended:
        job._stop.wait(0.02)
    test.run()
    run = analysis.open(small_run / "capture.nc")
    expected = analysis.spectrum(run, "db2")
    assert alternatives(test)[0] == analysis.plot.spectrum(expected).layout.meta["alt"]
    assert alternatives(test)[4] == analysis.plot.trends(analysis.trends(expected)).layout.meta["alt"]
    test.selectbox(key="wavelet").select("haar").run()
    assert alternatives(test)[0] == analysis.plot.spectrum(analysis.open(small_run / "spectrum.nc")).layout.meta["alt"]


def test_another_wavelet_without_a_capture_is_a_sentence(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    shutil.copytree(small_run, tmp_path / "run")
    (tmp_path / "run" / "capture.nc").unlink()
    test = opened(tmp_path / "run", monkeypatch, WAVELETS)
    assert not test.error
    test.selectbox(key="wavelet").select("db4").run()
    assert "lacks capture.nc" in test.error[0].value.replace("\\", "")


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
    assert alternatives(test) == [
        analysis.plot.eviction_map(titled(real), policy="TreeKV (real run)").layout.meta["alt"]
    ]
    assert test.slider(key="step").value == test.slider(key="step").max == 100


def test_a_page_of_4096_tokens_and_many_heads_stays_light(long_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for page in (WAVELETS, EVICTION_MAP):
        test = opened(long_run, monkeypatch, page)
        weight = sum(len(json.dumps(figure)) for figure in figures(test)) + sum(map(len, sheets(test)))
        print(f"{page}: {weight:,} bytes of pictures and text")
        assert 10_000 < weight < MOST_BYTES
