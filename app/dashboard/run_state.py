"""What the pages share: the run, its arrays, the chosen layer and head."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import plotly.graph_objects as go
import streamlit as st
import xarray as xr

import analysis
from app import run_folder
from app.dashboard import RUN_VARIABLE, theming
from app.run_folder import RunFolder
from treekv import TreeKVError

T = TypeVar("T")
ALL = "all"
_SHEET = (
    "background:#ffffff;border:1px solid #d5d9e0;border-radius:8px;padding:16px 20px;max-height:28rem;overflow-y:auto"
)


def current_run() -> RunFolder:
    """The run that the server was started on; without one the page says how to make it and stops."""
    path = os.environ.get(RUN_VARIABLE)
    if path is None:
        st.title("No run yet")
        st.markdown("Make one, then open the dashboard on it:")
        st.code("treekv demo\ntreekv dashboard treekv-runs/demo", language="shell")
        st.stop()
    return or_stop(lambda: run_folder.open_run(path))


def spectrum(run: RunFolder) -> xr.Dataset:
    return or_stop(lambda: _opened(*_version(run.file(run_folder.SPECTRUM)), "spectrum"))


def trends(run: RunFolder) -> xr.Dataset:
    return or_stop(lambda: _opened(*_version(run.file(run_folder.TRENDS)), "trends"))


def retention(run: RunFolder) -> xr.Dataset:
    return or_stop(lambda: _opened(*_version(run.file(run_folder.RETENTION)), "retention"))


def choose_layer_and_head(data: xr.Dataset) -> None:
    """The two selectors; the choice lives in the address, so that a link shows the same view."""
    for name, hint in (
        ("layer", "Pictures average over all layers unless one is chosen."),
        ("head", "A query head. The eviction map shows the KV head that serves it."),
    ):
        options = [ALL, *(str(number) for number in data[name].values)]
        st.selectbox(name.capitalize(), options, key=name, bind="query-params", help=hint)


def chosen(name: str) -> int | None:
    """The chosen layer or head, None for all."""
    choice = st.session_state.get(name, ALL)
    return None if choice == ALL else int(choice)


def kv_head(head: int | None, heads: int, kv_heads: int) -> int | None:
    """The KV head that serves a query head."""
    return None if head is None else head * kv_heads // heads


def draw(make: Callable[[], go.Figure], reading: str, key: str) -> None:
    """A picture with its text alternative, and under it the sentence that says how to read it."""
    with st.spinner("Drawing"):
        figure = theming.themed(or_stop(make), theming.is_dark())
    st.plotly_chart(figure, key=key, theme=None, alt=figure.layout.meta["alt"], config={"displaylogo": False})
    st.caption(reading)


def draw_text(make: Callable[[], str], reading: str) -> None:
    """Text shaded by `analysis.plot.text_retention`, which escapes it, on a sheet of paper in either theme."""
    # Keyboards scroll what has the focus.
    st.html(f'<div style="{_SHEET}" tabindex="0">{or_stop(make)}</div>')
    st.caption(reading)


def or_stop(work: Callable[[], T]) -> T:
    """The result; when the input is at fault its sentence is shown and the page ends there."""
    try:
        return work()
    except TreeKVError as error:
        st.error(plain(str(error)))
        st.stop()


def plain(text: str) -> str:
    """Text that markdown shows as it is: no links, pictures or emphasis from a file's name."""
    return re.sub(r"([\\`*_{}\[\]()#+!|<>~$:.-])", r"\\\1", text)


def _version(file: Path) -> tuple[str, int]:
    return str(file), file.stat().st_mtime_ns


@st.cache_resource(max_entries=6, show_spinner="Reading the run")
def _opened(path: str, changed: int, kind: str) -> xr.Dataset:
    """A file of a run, held while it does not change; `changed` is part of the key only."""
    openers = {
        "spectrum": analysis.open_spectrum,
        "trends": analysis.open_trends,
        "retention": analysis.open_retention,
    }
    return openers[kind](path)
