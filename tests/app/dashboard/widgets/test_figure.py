"""Dragging across a figure selects whole positions."""

from __future__ import annotations

import pytest
import streamlit as st

from app.dashboard.widgets.figure import _zoom_to_selection


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
