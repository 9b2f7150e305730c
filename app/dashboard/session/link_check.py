"""What a link asks for that its run does not have, told in one sentence instead of passed over."""

from __future__ import annotations

from typing import Final

import streamlit as st

from app.dashboard.session import run as run_state
from app.runs.folder import RunFolder
from app.text import wording
from treekv import TreeKVError

_ASKED: Final = ("layer", "head", "positions", "policy", "step")
_LONGEST: Final = 40  # characters of what somebody put into an address


def check(run: RunFolder, page: str) -> None:
    """Look at the address before the page's controls drop what they cannot show.

    Once for each run and page: later on the server's copy of the address is behind what the reader chooses, and another
    link is another session.
    """
    checked = st.session_state.setdefault("checked_links", set())
    if (run.path.name, page) in checked:
        return
    checked.add((run.path.name, page))
    asked = {name: st.query_params.get_all(name) for name in _ASKED}
    parts = _of_view(run, asked) + (_of_map(run, asked) if page == "eviction_map" else [])
    if parts:
        st.session_state["unknown_in_link"] = parts


def say() -> None:
    """The sentence, once."""
    parts = st.session_state.pop("unknown_in_link", None)
    if parts:
        st.warning(f"The link asks for what this run does not have: {run_state.plain('; '.join(parts))}.")


def _of_view(run: RunFolder, asked: dict[str, list[str]]) -> list[str]:
    data = run_state.any_record(run)
    if data is None:
        return []
    parts = [
        f"{name} {_short(value)} (all are shown)"
        for name in ("layer", "head")
        for value in asked[name][-1:]
        if value not in (run_state.ALL, *map(str, data[name].values))
    ]
    if asked["positions"]:
        tokens = run_state.tokens_of(data)
        pair = run_state.positions_of_address()
        shown = run_state.nearest(*(pair or (0, tokens)), tokens)
        if pair != shown:
            words = _short(" to ".join(asked["positions"]))
            parts.append(f"positions {words} ({shown[0]:,} to {shown[1]:,} are shown)")
    return parts


def _of_map(run: RunFolder, asked: dict[str, list[str]]) -> list[str]:
    try:
        record = run_state.retention(run, stop=False)
    except TreeKVError:
        return []  # the page says so
    names = run_state.policies_of(record)
    real = st.session_state.get("real_trace")
    of_real = [] if real is None else run_state.policies_of(real)
    steps, parts = int(record.attrs["steps"]), []
    for value in asked["policy"][-1:]:
        if value in [run_state.policy_label(name) for name in of_real]:
            steps = int(real.attrs["steps"])
        elif value not in [run_state.policy_label(name) for name in names]:
            whose = ", a record of the session that generated it" if value.endswith("(real run)") else ""
            parts.append(f"the policy {_short(value)}{whose} ({wording.policy_title(names[0])} is shown)")
    for value in asked["step"][-1:]:
        if not 1 <= (run_state.whole(value) or 0) <= steps:
            parts.append(f"step {_short(value)} (the last, {steps:,}, is shown)")
    return parts


def _short(value: str) -> str:
    text = "".join(mark if mark.isprintable() else " " for mark in value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
