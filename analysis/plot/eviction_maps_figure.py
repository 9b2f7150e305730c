"""Which positions are kept after which step, for one policy or for several side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from analysis.plot import theme
from analysis.retention import record
from treekv.errors import TreeKVError

NOT_READ = "not read yet"

# Characters that fit in a line above a map and inside it on a narrow page, by the number of maps in a row.
_TITLE_WIDTH = {1: 60, 2: 28, 3: 18}
_LABEL_WIDTH = {1: 60, 2: 60, 3: 8}
_ROW_HEIGHT = 330  # pixels
_FRONT = "#d6336c"  # of the line at a step: neither in the scale nor its ground


def eviction_map(
    data: xr.Dataset,
    *,
    policy: str | None = None,
    layer: int | None = None,
    head: int | None = None,
    step: int | None = None,
    steps: tuple[int, int] | None = None,
    start: int | None = None,
    stop: int | None = None,
) -> go.Figure:
    """Draw which positions (x) are kept after which step (y, downwards), as a share of layers and heads.

    With a layer and a KV head selected, a position is either kept or evicted; otherwise the share is averaged. `steps`
    = (first, end) limits the steps to first ... end - 1; None means from the first of the positions to the end. Long
    stretches are pooled to at most 512 cells per side: for a single layer and head a cell counts as kept if any of its
    tokens is kept at any of its steps; averages, in whole per cent, are pooled by their mean. The title of the x axis
    says which. `step` is marked by a line, for a map beside pictures of that step; such a map, which is drawn often,
    has at most 256 cells per side. `policy` may be None if the record has only one. The text alternative is in
    `layout.meta["alt"]`. Raises TreeKVError, listing the choices, for a policy, layer, head or stretch that is not in
    the record.
    """
    part = theme.stretch(data, start, stop)
    steps = whole_steps(part) if steps is None else steps
    pooled = _pooled(layer, head)
    side = theme.MAX_CELLS if step is None else theme.MAX_CELLS // 2
    cells = record.retention_map(part, policy, layer, head, side, steps, pooled=pooled)
    policy = str(data["policy"].values[0]) if policy is None else policy
    _, words = theme.chosen(data, layer, head)
    step_size, position_size = cells.attrs["step_size"], cells.attrs["position_size"]
    total = int(data.attrs["steps"])
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
    if step is not None:
        figure.add_hline(step, line={"color": _FRONT, "width": 2})
    name_columns(figure, part, position_size)
    return figure


def eviction_maps(
    data: xr.Dataset,
    *,
    policies: Sequence[str] | None = None,
    layer: int | None = None,
    head: int | None = None,
    steps: tuple[int, int] | None = None,
    start: int | None = None,
    stop: int | None = None,
) -> go.Figure:
    """Draw the eviction maps of several policies side by side, on one colour scale and the same axes.

    `policies` are all of the record if None; the other arguments are those of `eviction_map`, and cells are pooled in
    the same way, as stated below the title. Zooming into one map zooms all of them. Together the maps have as many
    cells as a single one: 512 / sqrt(n) per side for n policies. The text alternative is in `layout.meta["alt"]`.
    Raises TreeKVError as `eviction_map` does, and for no policies.
    """
    names = [str(name) for name in data["policy"].values] if policies is None else list(policies)
    if not names:
        raise TreeKVError("there is no policy to draw; give at least one of the record's")
    part = theme.stretch(data, start, stop)
    steps = whole_steps(part) if steps is None else steps
    _, words = theme.chosen(data, layer, head)
    side = int(theme.MAX_CELLS / math.sqrt(len(names)))
    pooled = _pooled(layer, head)
    maps = [record.retention_map(part, name, layer, head, side, steps, pooled=pooled) for name in names]
    total = int(data.attrs["steps"])
    columns = 2 if len(names) == 4 else min(len(names), 3)  # no row with a hole where that can be
    rows = -(-len(names) // columns)
    # The axis title below a single map has no room to say how positions are pooled.
    size = maps[0].attrs["position_size"]
    cells_of = f" · {pooled} of every {size} positions" if size > 1 else ""
    kept = record.kept_mask(part, steps[1] - 1)
    tables = [_quarters(kept.sel(policy=name), layer, head) for name in names]
    figure = theme.grid(
        "Tokens kept, by policy",
        f"{words.replace('head', 'KV head')} · {_extent(part, steps, total)}{cells_of}",
        f"Maps of step against position, one per policy, {words}: {_shown(pooled)}. "
        "After the last step the four quarters of the text are kept to: "
        f"{'; '.join(f'{name} {table}' for name, table in zip(names, tables, strict=True))}.",
        [theme.in_lines(theme.shown(name), _TITLE_WIDTH[columns]) for name in names],
        columns,
        130 + _ROW_HEIGHT * rows,
    )
    view = view_of(part, steps)
    for number, cells in enumerate(maps):
        row, column = divmod(number, columns)
        place: dict[str, Any] = {"row": row + 1, "col": column + 1}
        heatmap = _heatmap(cells, at_cell(part))
        heatmap.update(coloraxis="coloraxis")
        figure.add_trace(heatmap, **place)
        hide_future(figure, view, total, theme.in_lines(NOT_READ, _LABEL_WIDTH[columns]), **place)
    bar = _colorbar(pooled, maps[0].attrs["step_size"] * maps[0].attrs["position_size"])
    figure.update_layout(coloraxis={"colorscale": "Cividis", "cmin": 0, "cmax": 100, "colorbar": bar})
    # Few tick labels, so that those of neighbouring maps do not overlap.
    for number, axis in enumerate(list(figure.select_xaxes())):
        labels: dict[str, Any] = {"showticklabels": True}
        if number == (rows - 1) * columns:
            labels["title"] = {"text": "position", "standoff": 8}
        theme.style(figure, axis, showgrid=False, range=view[:2], nticks=4, **labels)
    for number, axis in enumerate(list(figure.select_yaxes())):
        labels = {"title": {"text": "step, downwards"}} if number % columns == 0 else {}
        theme.style(figure, axis, showgrid=False, range=view[:1:-1], **labels)
    name_columns(figure, part, size)
    return figure


def _pooled(layer: int | None, head: int | None) -> str:
    """How cells are pooled: of a single head whether anything is kept, of several the mean."""
    return "mean" if layer is None or head is None else "any"


def _shown(pooled: str) -> str:
    if pooled == "any":
        return "whether a token is kept, or any of those that share a cell"
    return "the share of layers and KV heads that keep a token"


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
    """The steps (first, end) from the one that reads the first of these positions."""
    return int(part["position"].values[0]), int(part.attrs["steps"])


def view_of(part: xr.Dataset, steps: tuple[int, int]) -> tuple[float, float, float, float]:
    """Left, right, top and bottom of the axes."""
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
    figure: go.Figure,
    view: tuple[float, float, float, float],
    total: int,
    words: str = NOT_READ,
    ground: str = "#f2f3f5",
    **place: int,
) -> None:
    """Cover the triangle above the diagonal: whole per cents have no value for "not read yet"."""
    near, far = -0.5, total - 0.5
    triangle = go.Scatter(
        x=[near, far, far, near],
        y=[near, near, far, near],
        mode="lines",
        line={"color": "#f2f3f5", "width": 2},
        fill="toself",
        fillcolor=ground,
        hoveron="fills",
        hoverinfo="text",
        text=NOT_READ,
        showlegend=False,
    )
    figure.add_trace(triangle, **place)
    left, right, top, bottom = view
    x, y = left + 0.72 * (right - left), top + 0.28 * (bottom - top)
    if x - y > 0.2 * (right - left):  # the triangle is visible and has room for the words
        figure.add_annotation(x=x, y=y, text=words, showarrow=False, **place)


def at_cell(data: xr.Dataset) -> str:
    """The start of the hover text of a cell; see `name_columns`."""
    token = "<br>%{x}" if "token" in data.coords else ""
    return f"after step %{{y:.0f}}, position %{{x:.0f}}{token}"


def name_columns(figure: go.Figure, data: xr.Dataset, size: int) -> None:
    """Show the tokens of a column, `size` each, in the hover text of its cells; call this last.

    A text per cell would take megabytes, but the hover text shows the tick label of a position. So the traces move to
    a second, invisible position axis over the first, whose tick labels are the tokens; the first keeps its numbers.
    """
    if "token" not in data.coords:
        return
    position = data["position"].values
    edges = np.append(np.arange(0, len(position), size), len(position))
    names = {
        "tickmode": "array",
        "tickvals": position[edges[:-1]] + (size - 1) / 2,
        "ticktext": [f"\u201c{text}\u201d" for text in theme.pooled_tokens(data, edges)],
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
        if not moved:  # the last row of a grid may be incomplete
            continue
        for trace in moved:
            trace.xaxis = above
        figure.add_scatter(
            x=[None], y=[None], hoverinfo="skip", showlegend=False, **below
        )  # otherwise plotly does not draw the axis
        figure.layout[above.replace("x", "xaxis")] = names | {
            "overlaying": own,
            "anchor": below["yaxis"],
            "range": axis.range,
        }


def _quarters(kept: xr.DataArray, layer: int | None, head: int | None) -> str:
    """The share kept of each quarter, of one policy, in words."""
    share = kept.sel({name: value for name, value in (("layer", layer), ("head", head)) if value is not None})
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
        f"last of {steps[1]} steps the four quarters of the {what} are kept to "
        f"{_quarters(record.kept_mask(part, steps[1] - 1).sel(policy=policy), layer, head)}."
    )
