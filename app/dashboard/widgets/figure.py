"""Figures and text as the pages show them, with a text alternative and a caption."""

from __future__ import annotations

import functools
import html
import math
from collections.abc import Callable
from typing import Any, Final

import plotly.graph_objects as go
import streamlit as st
import xarray as xr

from app.dashboard.session.messages import or_stop
from app.dashboard.session.run import tokens_of
from app.dashboard.session.view import LEAST_STRETCH, selected_stretch, zoom
from app.dashboard.widgets import theme
from app.export.dark import themed

MOST_SHOWN: Final = 2048  # tokens of text at once


_SHEET: Final = (
    "background:light-dark(#ffffff,#12161d);color:light-dark(#1f2430,#e6e9f0);border:1px solid "
    "light-dark(#d5d9e0,#3d4656);border-radius:8px;padding:16px 20px;max-height:28rem;overflow-y:auto"
)
# Of plotly's tools those that these figures need: an image, zooming by dragging, moving, and back again.
_CONFIG: Final = {
    "displaylogo": False,
    "modeBarButtonsToRemove": ["zoomIn2d", "zoomOut2d", "autoScale2d", "lasso2d", "select2d"],
}


def draw_figure(
    make: Callable[[], go.Figure],
    caption: str,
    key: str,
    zoomable: bool = False,
    on_head: Callable[[int, int], None] | None = None,
) -> None:
    """Draw a figure with its text alternative, and its caption below; `make` returns a new figure.

    In a zoomable one, whose x axis is the position, dragging selects the stretch that all figures show. `on_head` is
    called with the layer and head of a marker that is clicked (see `analysis.plot.theme.clickable`).
    """
    with st.spinner("Drawing"):
        figure = themed(or_stop(make), theme.is_dark())
    options: dict[str, Any] = {}
    key = f"picture-{key}"
    if zoomable:
        figure.update_layout(dragmode="select", selectdirection="h")
        key = f"{key}-{st.session_state.get('positions')}"  # another stretch is another figure, with nothing selected
        options = {"on_select": functools.partial(_zoom_to_selection, key), "selection_mode": "box"}
    elif on_head is not None:
        # Another choice is another figure, with nothing selected.
        key = f"{key}-{st.session_state.get('layer')}-{st.session_state.get('head')}"
        options = {"on_select": functools.partial(_choose_clicked, key, on_head), "selection_mode": "points"}
    st.plotly_chart(figure, key=key, theme=None, alt=figure.layout.meta["alt"], config=_CONFIG, **options)
    st.caption(caption)


def _zoom_to_selection(key: str) -> None:
    boxes = st.session_state[key]["selection"]["box"]
    if boxes:
        left, right = sorted(float(end) for end in boxes[0]["x"])
        now_first, now_last = st.session_state.get("positions") or (0, math.inf)
        first, last = max(math.floor(left), now_first, 0), min(math.ceil(right) + 1, now_last)
        if last - first >= LEAST_STRETCH:
            zoom(first, int(last))


def _choose_clicked(key: str, on_head: Callable[[int, int], None]) -> None:
    for point in st.session_state[key]["selection"]["points"][:1]:
        layer, head = point["customdata"]
        on_head(int(layer), int(head))


def show_stretch(data: xr.Dataset) -> None:
    """The text of the selected positions, or how to select some."""
    tokens = tokens_of(data)
    start, stop = selected_stretch(tokens)
    if start is None and stop is None:
        st.caption("Drag sideways across a figure to zoom all of them to a stretch and to read its text here.")
        return
    first, last = start or 0, stop or tokens
    if "token" not in data.coords:
        st.caption("This record does not contain the text of its tokens.")
        return
    part = data["token"].sel(position=slice(first, last - 1)).values[:MOST_SHOWN]
    cut = f", the first {MOST_SHOWN:,} of them" if last - first > MOST_SHOWN else ""
    st.markdown(f"**The text of positions {first:,} to {last - 1:,}**{cut}")
    words = html.escape("".join(map(str, part)))
    st.html(region(words, f"The text of positions {first} to {last - 1}", f'style="{_sheet()};white-space:pre-wrap"'))


def draw_html(make: Callable[[], str], caption: str) -> None:
    """Draw a picture in HTML of `analysis.plot`, which escapes it and has its text alternative."""
    st.html(f'<div style="color-scheme:{"dark" if theme.is_dark() else "light"}">{or_stop(make)}</div>')
    st.caption(caption)


def draw_text(make: Callable[[], str], caption: str, shaded_by: str = "what is kept", from_end: bool = False) -> None:
    """Draw a shaded text of `analysis.plot`, which escapes it; `from_end` scrolled to its end, whenever it is drawn."""
    style = _sheet() + (";display:flex;flex-direction:column-reverse" if from_end else "")
    st.html(region(or_stop(make), f"The text, shaded by {shaded_by}", f'style="{style}"'))
    st.caption(caption)


def _sheet() -> str:
    """The style of a sheet with text, in the theme of the page."""
    return f"color-scheme:{'dark' if theme.is_dark() else 'light'};{_SHEET}"


def region(content: str, label: str, attributes: str) -> str:
    """Scrollable HTML that the keyboard can focus and screen readers announce by its label."""
    return f'<div role="region" aria-label="{html.escape(label)}" tabindex="0" {attributes}>{content}</div>'
