"""Linked hover: the token below the pointer in one picture of a record is marked in the others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import streamlit as st

_SCRIPT: Final = Path(__file__).with_suffix(".js")


def group(number: int) -> str:
    """The key of the container that holds a record's map, density and text, in this order."""
    return f"hover-{number}"


def link_hover(steps: Mapping[str, int]) -> None:
    """Link the pictures of each group; `steps` are the positions of the newest token they show, by group."""
    # Registered at each run of a page, which finds it again: the registry belongs to the running server.
    linked = st.components.v2.component("treekv_linked_hover", js=_SCRIPT.read_text(encoding="utf-8"))
    linked(key="linked-hover", data={"steps": dict(steps)}, height="content")
