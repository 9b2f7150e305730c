"""Shared by all figures: colours, line styles, fonts, the text alternative, and token text for hover.

Colours of ordered things come from viridis and cividis, which keep their order in grey and for colour-blind readers;
those of policies are in `policy_colours`.
"""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots

from treekv.errors import TreeKVError

MAX_CELLS = 512
LINE = 68  # characters of a subtitle that fit a narrow page
LINE_HEIGHT = 18
_BETWEEN_ROWS = 60  # pixels, of a grid whose subplots have names of one line

_BELOW_AXIS = 68  # pixels that tick labels and title of an axis take
_MOST_ENTRIES = 32  # of a legend below an axis, which scrolls if it is longer
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif"
INK, QUIET, GRID = "#1f2430", "#5b6372", "#e6e8ec"  # of text, of secondary text and lines, of grid lines

# From less to more than the middle: a sequential scale has no middle, and all readers tell blue from yellow.
DIVERGING = [[0.0, "#00224e"], [0.25, "#5b6d9a"], [0.5, "#e3e4e8"], [0.75, "#e0b93c"], [1.0, "#a06500"]]


def figure(title: str, subtitle: str, alt: str, height: int = 480) -> go.Figure:
    """An empty figure with title and subtitle, and its text alternative `alt` in layout.meta."""
    return _styled(go.Figure(), title, subtitle, alt, height)


def grid_height(layers: int) -> int:
    """Of a figure with a row for each layer: enough for the title of its axis and the ticks of its colour bar."""
    return min(max(170 + 20 * layers, 360), 900)


def grid(
    title: str, subtitle: str, alt: str, names: list[str], columns: int, height: int, shared: bool = True
) -> go.Figure:
    """An empty figure with one small subplot for each of `names`, its title, in rows of `columns`."""
    rows = -(-len(names) // columns)
    lines = max(name.count("<br>") for name in names)
    height += LINE_HEIGHT * lines * rows
    figure = make_subplots(
        rows,
        columns,
        subplot_titles=names,
        shared_xaxes="all" if shared else False,
        shared_yaxes="all" if shared else False,
        horizontal_spacing=0.18 / columns if shared else 0.2 / columns,
        # Between two rows are the tick labels of the upper one and the names of the lower one.
        vertical_spacing=max(0.22 / rows, (_BETWEEN_ROWS + LINE_HEIGHT * lines) / (height - 175)) if rows > 1 else 0,
    )
    figure.layout.annotations = [above.to_plotly_json() | {"font": {"size": 14}} for above in figure.layout.annotations]
    return _styled(figure, title, subtitle, alt, height, top=115 + LINE_HEIGHT * lines)


def _styled(figure: go.Figure, title: str, subtitle: str, alt: str, height: int, top: int = 90) -> go.Figure:
    lines = _wrapped(subtitle)
    more = LINE_HEIGHT * (len(lines) - 1)
    axis = {
        "gridcolor": GRID,
        "linecolor": QUIET,
        "ticks": "outside",
        "tickcolor": QUIET,
        "zeroline": False,
        "showline": True,
    }
    layout: dict[str, Any] = {
        "title": {
            "text": title,
            "subtitle": {"text": "<br>".join(lines), "font": {"size": 13, "color": QUIET}},
            "font": {"size": 18},
            "x": 0.01,
            "xanchor": "left",
            "y": 1,
            "yanchor": "top",
            "yref": "container",
            "pad": {"t": 24},
        },
        "font": {"family": _FONT, "size": 13, "color": INK},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "height": height + more,
        "margin": {"l": 80, "r": 30, "t": top + more, "b": 60},
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": QUIET, "activecolor": INK},
        "hoverlabel": {"font": {"family": _FONT, "size": 12}},
        "meta": {"alt": alt},
    }
    for name, value in layout.items():  # `update_layout` takes much longer
        figure.layout[name] = value
    for each in (figure.layout.xaxis, figure.layout.yaxis, *figure.select_xaxes(), *figure.select_yaxes()):
        style(figure, each, **axis)
    return figure


def legend_below(figure: go.Figure, title: str, entries: int) -> None:
    """Put the legend below the x axis, with two entries in a line, as many as fit on a narrow page.

    The margins are fixed: with plotly's own, which follow the legend, it covers the axis after a window is widened.
    """
    margin = figure.layout.margin
    inside = figure.layout.height - margin.t - margin.b
    lines = 1.0 + title.count("<br>") + math.ceil(min(entries, _MOST_ENTRIES) / 2)
    bottom = _BELOW_AXIS + LINE_HEIGHT * lines + 12
    figure.update_layout(
        height=inside + margin.t + bottom,
        margin={"b": bottom, "autoexpand": False},
        legend={
            "orientation": "h",
            "entrywidth": 0.49,
            "entrywidthmode": "fraction",
            "x": 0,
            "y": -_BELOW_AXIS / inside,
            "yanchor": "top",
            "title": {"text": title, "side": "top"},
            "traceorder": "normal",
            "font": {"size": 11},
        },
    )


def style(figure: go.Figure, axis: Any, **properties: Any) -> None:
    """Set whole properties of an axis at once; `update_xaxes` takes ten times as long, which a page of maps shows."""
    figure.layout[axis.plotly_name] = axis.to_plotly_json() | properties


def _wrapped(subtitle: str) -> list[str]:
    """Its parts, which dots separate, in as few lines as fit."""
    lines = [""]
    for part in subtitle.split(" · "):
        longer = f"{lines[-1]} · {part}" if lines[-1] else part
        if len(longer) > LINE and lines[-1]:
            lines.append(part)
        else:
            lines[-1] = longer
    return lines


def in_lines(words: str, letters: int) -> str:
    """Wrap text to lines of `letters` characters, as far as its words allow."""
    return "<br>".join(textwrap.wrap(words, letters, break_long_words=False, break_on_hyphens=False))


def dash(number: int) -> str:
    """The dash style of line `number`, so that lines differ without colour too."""
    return _DASHES[number % len(_DASHES)]


def ordered_colours(count: int) -> list[str]:
    """`count` colours from dark to bright, all legible on white."""
    return list(sample_colorscale("viridis", np.linspace(0.0, 0.85, count).tolist()))


def pooled_tokens(dataset: xr.Dataset, edges: np.ndarray) -> list[str]:
    """The text of each run of tokens for the hover text; empty strings if the text is unknown."""
    if "token" not in dataset.coords:
        return [""] * (len(edges) - 1)
    tokens = [str(token) for token in dataset["token"].values]
    return [shown("".join(tokens[a:b])) for a, b in itertools.pairwise(edges)]


def shown(text: str, longest: int = 40) -> str:
    """A piece of text that is safe to draw: one line, markup escaped, truncated if long."""
    text = text.replace("\n", "\u23ce").replace("\t", "\u21e5")
    text = text if len(text) <= longest else text[: longest - 1] + "\u2026"
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def clickable(
    figure: go.Figure,
    places: Sequence[tuple[float, float]],
    heads: Sequence[tuple[int, int]],
    text: Sequence[str],
    hovertemplate: str,
    **place: int,
) -> None:
    """Put a transparent marker on each cell of a grid of heads, whose `customdata` is its layer and head.

    A heatmap has no points that could be selected by a click. The nearest marker takes the hover and the click, so the
    heatmap has no hover text of its own. `place` is the row and column in a grid of figures.
    """
    figure.add_scatter(
        x=[x for x, _ in places],
        y=[y for _, y in places],
        mode="markers",
        marker={"size": 12, "symbol": "square", "opacity": 0},
        customdata=[list(pair) for pair in heads],
        text=list(text),
        hovertemplate=hovertemplate,
        showlegend=False,
        **place,
    )
    figure.update_layout(hoverdistance=-1, hovermode="closest")  # without a limit: the nearest one


def source(dataset: xr.Dataset) -> str:
    """The origin of a spectrum, for the subtitle of a figure."""
    attrs = dataset.attrs
    parts = [shown(str(attrs.get("model", "")))]
    if "wavelet" in attrs:
        kind = {"swt": " stationary", "packet": " packets"}.get(attrs.get("transform", ""), "")
        parts.append(f"{attrs['wavelet']}{kind or ' wavelet'}")
    if attrs.get("texts", 1) > 1:
        parts.append(f"mean of {attrs['texts']} texts")
    if attrs.get("projected"):
        parts.append("after the output projection")
    if attrs.get("sink_count"):
        treated = "taken out" if attrs.get("sinks") == "separate" else "left in"
        parts.append(f"first {attrs['sink_count']} tokens {treated}")
    return " · ".join(part for part in parts if part)


def position_title(run_length: int, how: str) -> str:
    """The title of a position axis, with how positions were pooled."""
    pooled = f"; {how} of every {run_length}" if run_length > 1 else ""
    return f"position in the text (tokens{pooled})"


def stretch(dataset: xr.Dataset, start: int | None, stop: int | None) -> xr.Dataset:
    """Positions start ... stop - 1 of the dataset; None leaves that end open.

    Raises TreeKVError for a stretch that is empty or outside the positions.
    """
    if start is None and stop is None:
        return dataset
    position = dataset["position"].values
    first, beyond = int(position[0]), int(position[-1]) + 1
    start, stop = first if start is None else start, beyond if stop is None else stop
    inside = (position >= start) & (position < stop)
    if not (start >= 0 and stop <= beyond and inside.any()):
        raise TreeKVError(f"start and stop must lie within positions {first} to {beyond}, got {start} to {stop}")
    return dataset.isel(position=inside)


def chosen(dataset: xr.Dataset, layer: int | None, head: int | None) -> tuple[xr.Dataset, str]:
    """Select one layer and head of the dataset, or all (None), and describe the selection in words.

    Raises TreeKVError, listing the choices, for one that does not exist.
    """
    words = []
    for name, value in (("layer", layer), ("head", head)):
        there = dataset[name].values.tolist()
        if value is None:
            words.append(f"{name} {there[0]}" if len(there) == 1 else f"mean of {len(there)} {name}s")
            continue
        if value not in there:
            raise TreeKVError(f"there is no {name} {value}; choose one of {', '.join(map(str, there))}")
        dataset = dataset.sel({name: [value]})
        words.append(f"{name} {value}")
    return dataset, ", ".join(words)


_MOST_TICKS = 4


def log_ticks(lowest: float, highest: float) -> dict[str, Any]:
    """Properties of a logarithmic axis over these values that give it several labels, however short it is."""
    decades = np.log10(highest / lowest) if 0 < lowest < highest else 0.0
    if decades >= 2:
        return {"dtick": 1}
    first, last = int(np.floor(np.log10(lowest))) if lowest > 0 else 0, int(np.ceil(np.log10(highest or 1)))
    for steps in ((1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9), (1, 1.5, 2, 3, 4, 6, 8), (1, 2, 5)):
        values = [step * 10.0**power for power in range(first, last + 1) for step in steps]
        if sum(lowest / 1.05 <= value <= highest * 1.05 for value in values) <= _MOST_TICKS:
            break
    return {"tickvals": values, "ticktext": [f"{value:.3g}" for value in values]}


def shade(
    figure: go.Figure, x: np.ndarray, low: np.ndarray, high: np.ndarray, colour: str, group: str, **place: int
) -> None:
    """Shade from `low` to `high` in a line's colour; it comes and goes with the legend's entry `group`.

    `place` is the row and column in a grid.
    """
    figure.add_scatter(
        x=np.concatenate((x, x[::-1])),
        y=np.concatenate((high, low[::-1])),
        mode="none",
        fill="toself",
        fillcolor=colour.replace("rgb(", "rgba(").replace(")", ", 0.18)"),
        hoverinfo="skip",
        legendgroup=group,
        showlegend=False,
        **place,
    )
