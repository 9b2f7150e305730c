"""A slider over the steps of a record that also plays."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

FRAMES = 24  # of one showing, from the beginning to the end
SECONDS = 0.8


def through_time(steps: int, show: Callable[[int], None]) -> None:
    """Slider and Play button, and under them whatever `show` draws of the chosen step, 0 ... steps - 1.

    Only this part of the page runs again while it plays. The step is kept in the address.
    """
    playing = bool(st.session_state.get("playing"))
    if st.session_state.get("step", 1) > steps:
        st.session_state.pop("step")  # of a longer record

    def part() -> None:
        if playing and _advance(steps):
            st.rerun()  # without the clock
        slider, button = st.columns([6, 1], vertical_alignment="bottom")
        with slider:
            count = st.slider(
                "After so many tokens were read",
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
    """One frame on; whether that was the last."""
    step = 0 if st.session_state.pop("rewind", False) else st.session_state.get("step", 0)
    step = min(step + max(steps // FRAMES, 1), steps)
    st.session_state["step"] = step
    st.session_state["playing"] = step < steps
    return step >= steps
