"""Checks a link for layers, positions and policies that its run does not have, and says so on the page."""

from __future__ import annotations

from typing import Final

import streamlit as st

from app.dashboard.session.keys import REAL_TRACE
from app.dashboard.session.messages import plain
from app.dashboard.session.run import any_record, open_retention, policies_of, policy_label, tokens_of
from app.dashboard.session.view import ALL, nearest_stretch, positions_of_address, read_index
from app.runs.folder import RunFolder
from app.text import wording
from treekv import TreeKVError

_ASKED: Final = ("layer", "head", "positions", "policy", "step")
_LONGEST: Final = 40  # characters of an address to show


def check(run: RunFolder, page: str) -> None:
    """Collect what the address asks for in vain; to be called before the page's controls drop it.

    Checked once for each run and page: afterwards the server's copy of the address lags behind the user's choices, and
    another link starts another session.
    """
    checked = st.session_state.setdefault("checked_links", set())
    if (run.path.name, page) in checked:
        return
    checked.add((run.path.name, page))
    asked = {name: st.query_params.get_all(name) for name in _ASKED}
    parts = _of_view(run, asked) + (_of_map(run, asked) if page == "eviction_map" else [])
    if parts:
        st.session_state["unknown_in_link"] = parts


def show_warning() -> None:
    """Show what `check` found, once; to be called outside the sidebar."""
    parts = st.session_state.pop("unknown_in_link", None)
    if parts:
        st.warning(f"The link asks for something that this run does not have: {plain('; '.join(parts))}.")


def _of_view(run: RunFolder, asked: dict[str, list[str]]) -> list[str]:
    data = any_record(run)
    if data is None:
        return []
    parts = [
        f"{name} {_short(value)} (all are shown)"
        for name in ("layer", "head")
        for value in asked[name][-1:]
        if value not in (ALL, *map(str, data[name].values))
    ]
    if asked["positions"]:
        tokens = tokens_of(data)
        pair = positions_of_address()
        shown = nearest_stretch(*(pair or (0, tokens)), tokens)
        if pair != shown:
            words = _short(" to ".join(asked["positions"]))
            parts.append(f"positions {words} ({shown[0]:,} to {shown[1]:,} are shown)")
    return parts


def _of_map(run: RunFolder, asked: dict[str, list[str]]) -> list[str]:
    try:
        record = open_retention(run, stop=False)
    except TreeKVError:
        return []  # the page says so
    names = policies_of(record)
    real = st.session_state.get(REAL_TRACE)
    of_real = [] if real is None else policies_of(real)
    steps, parts = int(record.attrs["steps"]), []
    for value in asked["policy"][-1:]:
        if real is not None and value in [policy_label(name) for name in of_real]:
            steps = int(real.attrs["steps"])
        elif value not in [policy_label(name) for name in names]:
            whose = ", which exists only in the session that generated it" if value.endswith("(real run)") else ""
            parts.append(f"the policy {_short(value)}{whose} ({wording.policy_title(names[0])} is shown)")
    for value in asked["step"][-1:]:
        if not 1 <= (read_index(value) or 0) <= steps:
            parts.append(f"step {_short(value)} (the last, {steps:,}, is shown)")
    return parts


def _short(value: str) -> str:
    text = "".join(mark if mark.isprintable() else " " for mark in value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
