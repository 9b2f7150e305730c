"""Several texts on one page: the open run beside others of the same model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import streamlit as st

from app.dashboard.pages import runs_root
from app.runs import folder as run_folder
from app.runs.folder import RunFolder

TOGETHER: Final = "together"  # in the manifest of runs that were made with one button: the same for all of them


def choose_others(run: RunFolder, key: str, fits: Callable[[RunFolder], bool], hint: str) -> list[RunFolder]:
    """The runs whose texts are to count too, among those of the same model that fit: until the user chooses, those that
    were made together with this one. Kept under `key` in the session, and in the address."""
    others = {
        other.path.name: other
        for other in run_folder.recent(runs_root())
        if other.path != run.path and _model(other) == _model(run) and fits(other)
    }
    if not others:
        st.session_state.pop(key, None)
        return []
    if key in st.session_state:
        st.session_state[key] = [name for name in st.session_state[key] if name in others]
    elif key not in st.query_params:
        mine = run.manifest.get(TOGETHER)
        st.session_state[key] = [name for name in others if mine and others[name].manifest.get(TOGETHER) == mine]
    chosen = st.multiselect(
        "Texts of other runs, too",
        list(others),
        key=key,
        bind="query-params",
        persist_state="session",
        placeholder="only this one",
        help=hint,
    )
    return [others[name] for name in chosen]


def _model(run: RunFolder) -> tuple[object, object]:
    """Its name, and where it was loaded from: two checkpoints can have one name."""
    return run.manifest.get("model"), run.manifest.get("load")
