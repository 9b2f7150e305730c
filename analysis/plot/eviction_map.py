"""What a policy keeps: step of the generation against position in the text, for one policy or for several."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from analysis.plot import theme
from analysis.retention import record as records
from treekv.errors import TreeKVError

NOT_READ = "not read yet"

_ABREAST = 3  # maps in a row
_LETTERS = 14  # of a line above a map, where that many stand abreast
_FEWER = 8  # of one inside a map
_ROW = 330  # pixels


def eviction_map(
    retention: xr.Dataset,
    policy: str | None = None,
    layer: int | None = None,
    head: int | None = None,
    start: int | None = None,
    stop: int | None = None,
    steps: tuple[int, int] | None = None,
) -> go.Figure:
    """Draw which positions (x) are held after which step (y, downwards), as a share of layers and heads.

    One layer and KV head, both chosen, show plain kept and evicted; left open (None) they are averaged. Positions
    `start` to `stop` - 1 are drawn (all when None), over the steps first to end - 1 of `steps` = (first, end) (when
    None from the first of the positions to the end). Long stretches are pooled to at most 512 cells a side: of one
    layer and head a cell is kept if any of its tokens is held at any of its steps; averages, in whole per cent, are
    pooled by their mean. The title of the x axis says which. `policy` may be None when the record has one policy. The
    text alternative is in `layout.meta["alt"]`. Raises TreeKVError, listing what there is, for a policy, layer, head
    or stretch that is not in the record.
    """
    part = theme.stretch(retention, start, stop)
    steps = whole_steps(part) if steps is None else steps
    pooled = _pooled(layer, head)
    cells = records.retention_map(part, policy, layer, head, theme.MAX_CELLS, steps, pooled=pooled)
    policy = str(retention["policy"].values[0]) if policy is None else policy
    _, words = theme.chosen(retention, layer, head)
    step_size, position_size = cells.attrs["step_size"], cells.attrs["position_size"]
    total = int(retention.attrs["steps"])
    figure = theme.figure(
        f"Tokens kept by the policy \u201c{theme.shown(policy)}\u201d",
        f"{words.replace('head', 'KV head')} · {_extent(part, steps, total)}",
        _alt(part, policy, layer, head, words, steps),
        height=640,
    )
    figure.add_trace(_heatmap(cells, at_cell(part)))
    figure.data[0].colorbar = _colorbar(pooled, step_size * position_size)
    view = view_of(part, steps)
    hide_future(figure, view, total)
    figure.update_xaxes(title=theme.position_title(position_size, pooled), showgrid=False, range=view[:2])
    figure.update_yaxes(title="step: tokens processed so far, downwards", showgrid=False, range=view[:1:-1])
    name_columns(figure, part, position_size)
    return figure


def eviction_maps(
    retention: xr.Dataset,
    policies: Sequence[str] | None = None,
    layer: int | None = None,
    head: int | None = None,
    start: int | None = None,
    stop: int | None = None,
    steps: tuple[int, int] | None = None,
) -> go.Figure:
    """Draw the eviction maps of several policies side by side, on one colour scale and the same axes.

    `policies` are all of the record when None; the other arguments are as of `eviction_map`, and cells are pooled as
    there, which the line under the title says. Zooming into one map zooms all. The maps share the cells of one: n
    policies have 512 / sqrt(n) a side. The text alternative is in `layout.meta["alt"]`. Raises TreeKVError as
    `eviction_map` does, and for no policies.
    """
    names = [str(name) for name in retention["policy"].values] if policies is None else list(policies)
    if not names:
        raise TreeKVError("there is no policy to draw; give at least one of the record's")
    part = theme.stretch(retention, start, stop)
    steps = whole_steps(part) if steps is None else steps
    _, words = theme.chosen(retention, layer, head)
    side = int(theme.MAX_CELLS / math.sqrt(len(names)))
    pooled = _pooled(layer, head)
    maps = [records.retention_map(part, name, layer, head, side, steps, pooled=pooled) for name in names]
    total = int(retention.attrs["steps"])
    columns = min(len(names), _ABREAST)
    rows = -(-len(names) // columns)
    # Under the first map alone there is no room for how positions are pooled.
    size = maps[0].attrs["position_size"]
    cells_of = f" · {pooled} of every {size} positions" if size > 1 else ""
    held = records.kept_mask(part, steps[1] - 1)
    tables = [_quarters(held.sel(policy=name), layer, head) for name in names]
    figure = theme.grid(
        "Tokens kept, by policy",
        f"{words.replace('head', 'KV head')} · {_extent(part, steps, total)}{cells_of}",
        f"Maps of step against position, one a policy, {words}: {_shown(pooled)}. "
        "After the last step the four quarters of the text are held to: "
        f"{'; '.join(f'{name} {table}' for name, table in zip(names, tables, strict=True))}.",
        [_narrow(theme.shown(name), columns, _LETTERS) for name in names],
        columns,
        130 + _ROW * rows,
    )
    view = view_of(part, steps)
    for number, cells in enumerate(maps):
        row, column = divmod(number, columns)
        place = {"row": row + 1, "col": column + 1}
        heatmap = _heatmap(cells, at_cell(part))
        heatmap.update(coloraxis="coloraxis")
        figure.add_trace(heatmap, **place)
        hide_future(figure, view, total, _narrow(NOT_READ, columns, _FEWER), **place)
    bar = _colorbar(pooled, maps[0].attrs["step_size"] * maps[0].attrs["position_size"])
    figure.update_layout(coloraxis={"colorscale": "Cividis", "cmin": 0, "cmax": 100, "colorbar": bar})
    # Few numbers, so that those of neighbouring maps do not run into each other.
    for number, axis in enumerate(list(figure.select_xaxes())):
        labels: dict[str, Any] = {}
        if number + columns >= len(names):  # nothing stands below
            labels["showticklabels"] = True
        if number == (rows - 1) * columns:
            labels["title"] = {"text": "position", "standoff": 8}
        theme.style(figure, axis, showgrid=False, range=view[:2], nticks=4, **labels)
    for number, axis in enumerate(list(figure.select_yaxes())):
        labels = {"title": {"text": "step, downwards"}} if number % columns == 0 else {}
        theme.style(figure, axis, showgrid=False, range=view[:1:-1], **labels)
    name_columns(figure, part, size)
    return figure


def _narrow(words: str, columns: int, letters: int) -> str:
    """In lines of so many letters where many maps stand abreast, for which a narrow page has little room."""
    if columns < _ABREAST:
        return words
    return "<br>".join(textwrap.wrap(words, letters, break_long_words=False, break_on_hyphens=False))


def _pooled(layer: int | None, head: int | None) -> str:
    """Of one map it matters whether a cell keeps anything at all; averages stay averages."""
    return "mean" if layer is None or head is None else "any"


def _shown(pooled: str) -> str:
    if pooled == "any":
        return "whether a token is held, or any of those that share a cell"
    return "the share of layers and KV heads that hold a token"


def _heatmap(cells: xr.DataArray, at_cell: str) -> go.Heatmap:
    percent = np.rint(100 * np.nan_to_num(cells.values)).astype(np.uint8)
    return go.Heatmap(
        x=cells["position"].values + (cells.attrs["position_size"] - 1) / 2,
        y=cells["step"].values + (cells.attrs["step_size"] - 1) / 2,
        z=percent,
        zmin=0,
        zmax=100,
        colorscale="Cividis",
        hovertemplate=f"{at_cell}: kept %{{z}} %<extra></extra>",
    )


def _colorbar(pooled: str, size: int) -> dict[str, object]:
    bar: dict[str, object] = {"thickness": 14, "outlinewidth": 0}
    if pooled == "any":
        return bar | {
            "tickvals": [0, 100],
            "ticktext": ["evicted", "kept"] if size == 1 else ["all evicted", "any kept"],
        }
    shares = [0, 25, 50, 75, 100]
    return bar | {
        "title": {"text": "kept", "side": "top"},
        "tickvals": shares,
        "ticktext": [f"{share} %" for share in shares],
    }


def whole_steps(part: xr.Dataset) -> tuple[int, int]:
    """From the step in which the first of these positions is read."""
    return int(part["position"].values[0]), int(part.attrs["steps"])


def view_of(part: xr.Dataset, steps: tuple[int, int]) -> tuple[float, float, float, float]:
    """Left, right, top and bottom of what is drawn."""
    first, end = steps
    position = part["position"].values
    return float(position[0]) - 0.5, float(position[-1]) + 0.5, first - 0.5, end - 0.5


def _extent(part: xr.Dataset, steps: tuple[int, int], total: int) -> str:
    position = part["position"].values
    words = [f"{total:,} tokens"]
    if len(position) < total:
        words.append(f"positions {position[0]:,} to {position[-1]:,}")
    if steps != whole_steps(part):
        words.append(f"steps {steps[0]:,} to {steps[1] - 1:,}")
    return ", ".join(words)


def hide_future(
    figure: go.Figure, view: tuple[float, float, float, float], total: int, words: str = NOT_READ, **place: int
) -> None:
    """Whole per cents have no room for "not read yet", so the triangle above the diagonal is covered."""
    near, far, grey = -0.5, total - 0.5, "#f2f3f5"
    triangle = go.Scatter(
        x=[near, far, far, near],
        y=[near, near, far, near],
        mode="lines",
        line={"color": grey, "width": 2},
        fill="toself",
        fillcolor=grey,
        hoveron="fills",
        hoverinfo="text",
        text=NOT_READ,
        showlegend=False,
    )
    figure.add_trace(triangle, **place)
    left, right, top, bottom = view
    x, y = left + 0.72 * (right - left), top + 0.28 * (bottom - top)
    if x - y > 0.2 * (right - left):  # the triangle is there, and there is room for the words
        figure.add_annotation(x=x, y=y, text=words, showarrow=False, **place)


def at_cell(retention: xr.Dataset) -> str:
    """How the hover box of a cell begins; see `name_columns`."""
    token = "<br>%{x}" if "token" in retention.coords else ""
    return f"after step %{{y:.0f}}, position %{{x:.0f}}{token}"


def name_columns(figure: go.Figure, retention: xr.Dataset, size: int) -> None:
    """Give every cell's hover box the text of its tokens, `size` to a column; call it when all else is drawn.

    A text for each cell would be megabytes, but a hover box shows a position by the name that the axis has for it. So
    the pictures move to a second position axis over the first, whose marks are the tokens and which shows none of
    them; the first one keeps its numbers.
    """
    if "token" not in retention.coords:
        return
    position = retention["position"].values
    edges = np.append(np.arange(0, len(position), size), len(position))
    names = {
        "tickmode": "array",
        "tickvals": position[edges[:-1]] + (size - 1) / 2,
        "ticktext": [f"\u201c{text}\u201d" for text in theme.pooled_tokens(retention, edges)],
        "showticklabels": False,
        "ticks": "",
        "showgrid": False,
        "matches": "x",
    }
    axes = list(figure.select_xaxes())
    for number, axis in enumerate(axes):
        own = axis.plotly_name.replace("axis", "")
        below, above = {"xaxis": own, "yaxis": own.replace("x", "y")}, f"x{len(axes) + number + 1}"
        moved = [trace for trace in figure.data if (trace.xaxis or "x") == own]
        if not moved:  # the last row of a grid may not be full
            continue
        for trace in moved:
            trace.xaxis = above
        figure.add_scatter(x=[None], y=[None], hoverinfo="skip", showlegend=False, **below)  # or it is not drawn
        figure.layout[above.replace("x", "xaxis")] = names | {
            "overlaying": own,
            "anchor": below["yaxis"],
            "range": axis.range,
        }


def _quarters(held: xr.DataArray, layer: int | None, head: int | None) -> str:
    """Share of each quarter that is held, of one policy, in words."""
    share = held.sel({name: value for name, value in (("layer", layer), ("head", head)) if value is not None})
    values = share.transpose(..., "position").values.reshape(-1, share.sizes["position"]).mean(0)
    return ", ".join(f"{100 * quarter.mean():.0f} %" for quarter in np.array_split(values, min(4, len(values))))


def _alt(
    part: xr.Dataset,
    policy: str,
    layer: int | None,
    head: int | None,
    words: str,
    steps: tuple[int, int],
) -> str:
    total = int(part.attrs["steps"])
    position = part["position"].values
    what = "text" if len(position) == total else f"stretch from position {position[0]} to {position[-1]}"
    return (
        f"Map of step against position for the policy {policy}, {words}: {_shown(_pooled(layer, head))}. After the "
        f"last of {steps[1]} steps the four quarters of the {what} are held to "
        f"{_quarters(records.kept_mask(part, steps[1] - 1).sel(policy=policy), layer, head)}."
    )
