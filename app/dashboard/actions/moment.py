"""A record at one step: its map, its density and its text, which a common slider moves, and its tree in words."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go
import streamlit as st
import xarray as xr

import analysis
from analysis import plot
from analysis.plot import theme
from analysis.plot.tree_figure import shown_stretch
from app.dashboard.session.messages import or_stop, plain
from app.dashboard.widgets import linked_hover
from app.dashboard.widgets.figure import draw_figure, draw_text
from app.text import captions

MOST_TOKENS = 2048  # of the text at once: a page of 250 kB
MOST_IN_TREE = 256
_HEIGHT = 640  # pixels of a map
_NARROW = {  # of a density, which shares a column
    "height": 360,
    "xaxis": {"title": {"text": "distance from the newest (tokens)"}},
    "yaxis": {"title": {"text": "kept (%)"}},
    "legend": {"x": 1, "xanchor": "right", "y": 1, "yanchor": "bottom", "orientation": "h"},
}


class Part(NamedTuple):
    """What is drawn of a record.

    Attributes:
        data: a retention record with the titles of policies.
        policy: one of them.
        layer, head: a layer and a KV head; None for all.
        start, stop: positions; None for the ends of the text.
        key: of the figures, another one for each record on a page.
    """

    data: xr.Dataset
    policy: str
    layer: int | None = None
    head: int | None = None
    start: int | None = None
    stop: int | None = None
    key: str = ""

    @property
    def steps(self) -> int:
        return int(self.data.attrs["steps"])


def draw_linked(parts: list[Part], step: int, zoomable: bool) -> None:
    """The map, the density and the text of each record after `step`: of one side by side, of two in a column each."""
    half = "[data-testid=stLayoutWrapper]:has(> [class*=st-key-linked-])"
    st.html(f"<style>{half}{{min-width: min(24rem, 100%)}}</style>")  # on a narrow page one below the other
    linked_hover.link_hover({linked_hover.group(at): min(step, part.steps - 1) for at, part in enumerate(parts)})
    if len(parts) == 1:
        row = st.container(horizontal=True, gap="medium", key=linked_hover.group(0))
        left, right = (row.container(key=f"linked-{name}", width="stretch") for name in ("left", "right"))
        with left:
            draw_map(parts[0], step, zoomable)
        with right:
            draw_density(parts[0], step)
            draw_text_so_far(parts[0], step)
        return
    row = st.container(horizontal=True, gap="medium")
    for number, part in enumerate(parts):
        column = row.container(key=f"linked-{number}", width="stretch")
        with column.container(key=linked_hover.group(number)):
            at = min(step, part.steps - 1)
            draw_map(part, at, zoomable and not number, height=420)
            draw_density(part, at)
            draw_text_so_far(part, at)


def draw_map(part: Part, step: int, zoomable: bool, height: int = _HEIGHT) -> None:
    draw_figure(
        lambda: plot.eviction_map(
            part.data,
            policy=part.policy,
            layer=part.layer,
            head=part.head,
            step=step,
            start=part.start,
            stop=part.stop,
        ).update_layout(height=height, yaxis_title_text="step, downwards"),
        captions.EVICTION_MAP,
        key=f"eviction-map{part.key}",
        zoomable=zoomable,
    )


def draw_density(part: Part, step: int) -> None:
    if _is_read(part, step):
        draw_figure(lambda: _narrow_density(part, step), captions.DENSITY, key=f"density{part.key}")


def _narrow_density(part: Part, step: int) -> go.Figure:
    figure = plot.density(
        part.data, layer=part.layer, head=part.head, step=step, start=part.start, stop=part.stop
    ).update_layout(_NARROW)
    figure.layout.margin.t += theme.LINE_HEIGHT + 8  # of the legend, which is above the curves
    return figure


def draw_heads(part: Part, step: int, on_head: Callable[[int, int], None] | None) -> None:
    """The maps of all layers and heads, up to the step."""
    if not _is_read(part, step):
        st.info(f"No position from {part.start:,} on has been read yet; move the slider to the right.")
        return
    draw_figure(
        lambda: plot.head_maps(
            part.data, policy=part.policy, start=part.start, stop=part.stop, step=min(step, part.steps - 1)
        ),
        f"{captions.HEAD_MAPS} {captions.CLICK}" if on_head else captions.HEAD_MAPS,
        key=f"head-maps{part.key}",
        on_head=on_head,
    )


def draw_text_so_far(part: Part, step: int) -> None:
    """The text up to the step, scrolled to its end."""
    first, last = _so_far(part, step)
    if not _is_read(part, step):
        st.info(f"No position from {first:,} on has been read yet; move the slider to the right.")
        return
    shown = max(first, last - MOST_TOKENS)
    draw_text(
        lambda: plot.text_retention(
            part.data, policy=part.policy, layer=part.layer, head=part.head, step=step, start=shown, stop=last
        ),
        f"{captions.TEXT} {captions.HOVER}",
        from_end=True,
    )


def draw_tree(part: Part, step: int) -> None:
    """The tree of one head, and in words which tokens one of those it keeps has beaten."""
    first, last = _so_far(part, step)
    if not _is_read(part, step):
        st.info(f"No position from {first:,} on has been read yet; move the slider to the right.")
        return
    start, stop = None, None
    if (part.start or part.stop) and last - first <= MOST_IN_TREE:
        start, stop = first, last
    draw_figure(
        lambda: plot.tree(
            part.data, policy=part.policy, layer=part.layer, head=part.head, step=step, start=start, stop=stop
        ),
        captions.TREE,
        key=f"tree{part.key}",
    )
    if start is None:
        st.caption(f"To see another stretch, select at most {MOST_IN_TREE} positions in the sidebar.")
        start, stop = shown_stretch(part.data, part.policy, part.layer, part.head, step)
    family_of_a_token(part, step, (start, stop or step + 1))


def family_of_a_token(part: Part, step: int, stretch: tuple[int, int]) -> None:
    """Which tokens a kept one of the stretch has beaten, level by level; the one that stands for the most to begin
    with."""
    layer = int(part.data["layer"].values[0]) if part.layer is None else part.layer
    head = int(part.data["head"].values[0]) if part.head is None else part.head
    of = {"policy": [part.policy], "layer": [layer], "head": [head]}
    forest = or_stop(lambda: analysis.eviction_tree(part.data.sel(of), step)).isel(policy=0, layer=0, head=0)
    kept = analysis.kept_mask(part.data.sel(of), step).values.ravel()[: step + 1]
    sizes = np.where(kept, forest["size"].values, 0)
    tokens = part.data["token"].values if "token" in part.data.coords else None
    positions = [at for at in range(*stretch) if kept[at]]
    if not positions:
        return
    positions.sort(key=lambda at: -sizes[at])

    def label(at: int) -> str:
        word = "" if tokens is None else f"\u201c{str(tokens[at]).replace(chr(10), chr(0x23CE)).strip()}\u201d "
        return f"{word}({at:,}), stands for {sizes[at]:,}"

    key = f"family{part.key}"
    if st.session_state.get(key) not in positions:
        st.session_state.pop(key, None)
    title = "The family of a token that is still kept"
    chosen = st.selectbox(title, positions, format_func=label, key=key) or positions[0]
    for sentence in analysis.family_in_words(part.data, chosen, policy=part.policy, layer=layer, head=head, step=step):
        st.markdown(f"- {plain(sentence)}")


def _so_far(part: Part, step: int) -> tuple[int, int]:
    return part.start or 0, min(part.stop or part.steps, step + 1)


def _is_read(part: Part, step: int) -> bool:
    first, last = _so_far(part, step)
    return first < last
