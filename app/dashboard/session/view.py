"""The part of a run in view: layer, head and positions, chosen in the sidebar and kept in the address."""

from __future__ import annotations

from typing import Final

import streamlit as st

from app.dashboard.session.run import any_record, tokens_of
from app.runs.folder import RunFolder

ALL = "all"


LEAST_STRETCH: Final = 16  # positions; fewer show no band
CHANGED: Final = "view-changed"  # in the session: a figure changed the view, and the sidebar was not drawn since


def choose_view(run: RunFolder) -> None:
    """Selectors of layer, head and positions; the address keeps the choice, so that a link shows the same view."""
    st.session_state.pop(CHANGED, None)
    data = any_record(run)
    if data is None:
        return
    for name, hint in (
        ("layer", "Figures show means over all layers unless one is selected."),
        ("head", "A query head. The eviction map shows the KV head it reads."),
    ):
        options = [ALL, *(str(number) for number in data[name].values)]
        if st.session_state.get(name, ALL) not in options:
            del st.session_state[name]
        st.selectbox(name.capitalize(), options, key=name, bind="query-params", persist_state="session", help=hint)
    tokens = tokens_of(data)
    now, asked = st.session_state.get("positions"), positions_of_address()
    if now is not None:
        first, last = now
        if now != nearest_stretch(first, last, tokens):
            st.session_state["positions"] = nearest_stretch(first, last, tokens)
    elif asked is not None and asked != nearest_stretch(*asked, tokens):
        st.query_params["positions"] = list(map(str, nearest_stretch(*asked, tokens)))
        st.rerun()  # Streamlit reads the address at the beginning
    st.slider(
        "Positions",
        0,
        tokens,
        (0, tokens),
        key="positions",
        bind="query-params",
        persist_state="session",
        help="The part of the text that figures show. Dragging across a figure selects it too.",
    )
    if selected_stretch(tokens) != (None, None):
        st.button("Show the whole text", on_click=zoom, args=(0, tokens), width="stretch")


def nearest_stretch(first: int, last: int, tokens: int) -> tuple[int, int]:
    """The nearest stretch to first ... last that can be drawn: in order, inside the text and long enough."""
    least = min(LEAST_STRETCH, tokens)
    first, last = sorted((first, last))
    first = min(max(first, 0), tokens - least)
    return first, min(max(last, first + least), tokens)


def positions_of_address() -> tuple[int, int] | None:
    """The stretch in the address, unchecked; None if there is none."""
    numbers = [read_index(word) for word in st.query_params.get_all("positions")]
    if len(numbers) != 2 or numbers[0] is None or numbers[1] is None:
        return None
    return numbers[0], numbers[1]


def read_index(word: str) -> int | None:
    """The whole number that a word of the address is; None if it is none, or larger than any text."""
    return int(word) if word.isdecimal() and len(word) <= 12 else None


def zoom(first: int, last: int) -> None:
    """Select the positions first to last - 1. For callbacks, which run before the slider is drawn."""
    st.session_state["positions"] = (first, last)
    st.session_state[CHANGED] = True


def choose_head(layer: int, head: int) -> None:
    """Select a layer and a query head. For callbacks, as `zoom`."""
    st.session_state["layer"], st.session_state["head"] = str(layer), str(head)
    st.session_state[CHANGED] = True


def follow() -> None:
    """Run the whole page again if a figure changed the view. For parts of a page that run alone, where only they would
    follow it."""
    if st.session_state.pop(CHANGED, False):
        st.rerun()


def selected_stretch(tokens: int) -> tuple[int | None, int | None]:
    """The selected positions as start and stop, each None at the end of the text."""
    first, last = st.session_state.get("positions") or (0, tokens)
    return (first or None), (last if last < tokens else None)


def selected_index(name: str) -> int | None:
    """The selected layer or head, None for all."""
    choice = st.session_state.get(name, ALL)
    return None if choice == ALL else int(choice)


def kv_head_of(head: int | None, heads: int, kv_heads: int) -> int | None:
    """The KV head that a query head reads."""
    return None if head is None else head * kv_heads // heads
