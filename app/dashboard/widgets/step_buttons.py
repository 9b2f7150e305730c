"""Buttons that go through a few steps one by one, also by the arrow keys, and a slider over them."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st


def one_by_one(steps: int, show: Callable[[int], None], key: str, first: int = 1) -> None:
    """Draw Back, Next and a slider, and below them what `show` draws of the selected step, 0 ... steps - 1.

    Only this part of the page runs again. The step, counted from 1, is kept in the session and in the address under
    `key`; `first` is the one to begin with.
    """
    if st.session_state.get(key, 1) > steps:
        st.session_state.pop(key)  # of a longer sequence

    def part() -> None:
        if steps == 1:
            show(0)
            return
        row = st.container(horizontal=True, vertical_alignment="bottom")
        back, forward = (row.container(width="content") for _ in range(2))
        count = row.slider(
            "Step",
            1,
            steps,
            min(first, steps),
            key=key,
            bind="query-params",
            persist_state="session",
        )
        for place, label, by, shortcut in ((back, "Back", -1, "Left"), (forward, "Next", 1, "Right")):
            place.button(
                label,
                key=f"{key}-{label.lower()}",
                on_click=_move,
                args=(key, by, steps),
                disabled=not 1 <= count + by <= steps,
                shortcut=shortcut,
                type="primary" if by > 0 else "secondary",
            )
        show(int(count) - 1)

    st.fragment(part)()


def _move(key: str, by: int, steps: int) -> None:
    st.session_state[key] = min(max(st.session_state[key] + by, 1), steps)
