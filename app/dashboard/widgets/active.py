"""The active configuration in the sidebar: the settings that Generate runs and Export exports, on every page."""

from __future__ import annotations

import streamlit as st

from app.dashboard.session.keys import BEFORE, UNSAVED
from app.dashboard.session.messages import plain
from app.dashboard.session.settings import current_settings, is_chosen, undo_choice
from app.runs.folder import RunFolder
from app.text import wording


def show(run: RunFolder | None) -> None:
    """Name and describe it, with a button that takes the last change back; nothing if none was chosen."""
    if run is None and not is_chosen():
        return
    config = current_settings(run, quiet=True)
    size = "" if config.policy == "full" else f" {config.cache_size:,}"
    st.caption(f"Active configuration  \n**{plain(config.title)}{size}**", help=wording.settings_in_words(config))
    unsaved = st.session_state.get(UNSAVED)
    if unsaved:
        st.caption(plain(f"It is kept in this session only: {unsaved}."))
    if st.session_state.get(BEFORE):
        st.button(
            "Undo", key="undo-active", on_click=undo_choice, help="Back to the configuration that was active before."
        )
