"""A slider over the steps of a record, which can play."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

FRAMES = 24  # from the first step to the last when it plays
SECONDS = 0.8  # per frame


def through_time(steps: int, show: Callable[[int], None]) -> None:
    """Draw a slider and a Play button, and below them what `show` draws of the selected step, 0 ... steps - 1.

    Only this part of the page runs again while it plays. The step is kept in the address.
    """
    playing = bool(st.session_state.get("playing"))
    if st.session_state.get("step", 1) > steps:
        st.session_state.pop("step")  # of a longer record

    def part() -> None:
        if playing and _advance(steps):
            st.rerun()  # without the timer
        slider, button = st.columns([6, 1], vertical_alignment="bottom")
        with slider:
            count = st.slider(
                "Step (tokens read so far)",
                1,
                steps,
                steps,
                key="step",
                bind="query-params",
                persist_state="session",
            )
        with button:
            if st.button("Stop" if playing else "Play", key="play", width="stretch"):
                st.session_state["playing"] = not playing
                st.session_state["rewind"] = count >= steps
                st.rerun()
        show(int(count) - 1)

    st.fragment(part, run_every=SECONDS if playing else None)()


def _advance(steps: int) -> bool:
    """Advance by one frame; returns whether it was the last."""
    step = 0 if st.session_state.pop("rewind", False) else st.session_state.get("step", 0)
    step = min(step + max(steps // FRAMES, 1), steps)
    st.session_state["step"] = step
    st.session_state["playing"] = step < steps
    return step >= steps
