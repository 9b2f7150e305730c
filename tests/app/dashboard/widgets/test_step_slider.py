"""The slider over steps plays to the end and can be stopped."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.dashboard.widgets import step_slider
from tests.app.conftest import TOKENS
from tests.app.pages import EVICTION_MAP, opened


def test_it_plays_to_the_end_and_stops(small_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test = opened(small_run, monkeypatch, EVICTION_MAP)
    assert test.slider(key="step").value == TOKENS
    test.button(key="play").click().run()
    stride = TOKENS // step_slider.FRAMES
    shown = [test.slider(key="step").value]
    while test.button(key="play").label == "Stop":
        test.run()
        shown.append(test.slider(key="step").value)
        assert len(shown) < 40
    assert shown[:3] == [stride, 2 * stride, 3 * stride]
    assert shown[-1] == TOKENS
    assert shown == sorted(shown)


def test_playing_can_be_stopped(small_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test = opened(small_run, monkeypatch, EVICTION_MAP)
    test.button(key="play").click().run()
    test.button(key="play").click().run()
    assert test.button(key="play").label == "Play"
    here = test.slider(key="step").value
    assert test.run().slider(key="step").value == here < TOKENS
