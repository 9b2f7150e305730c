"""The theme of the page."""

from __future__ import annotations

import streamlit as st


def inject_css() -> None:
    """Add styles to the page: a ring around the focused element in either theme, less space above the title, and on a
    narrow page a narrow sidebar."""
    # The dark theme's blue is too dim for small letters on its own tint.
    marked = "[data-testid=stBaseButton-segmented_controlActive] p{color: #8fc3f7}" if is_dark() else ""
    st.html(
        "<style>:focus-visible{outline: 3px solid #b8860b !important; outline-offset: 2px; border-radius: 4px} "
        "@media(max-width: 950px){[data-testid=stSidebar]{width: 195px !important; min-width: 0 !important}} "
        f"[data-testid=stMainBlockContainer]{{padding-top: 3.5rem}} {marked}</style>"
    )


def is_dark() -> bool:
    """Whether the browser shows the dark theme."""
    return st.context.theme.type == "dark"
