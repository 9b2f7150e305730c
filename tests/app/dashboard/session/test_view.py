"""The selected stretch of positions is always one that can be drawn."""

from __future__ import annotations

from pathlib import Path

import pytest

import analysis
from app.text.wording import titled
from tests.app.pages import EVICTION_MAP, WAVELETS, alternatives, opened


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
    assert len(alternatives(test)) == 7
