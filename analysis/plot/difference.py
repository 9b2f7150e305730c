"""Two policies, or a simulation and a real run, laid over each other."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from analysis.plot import theme
from analysis.plot.eviction_map import at_cell, hide_future, name_columns, view_of, whole_steps
from analysis.retention import record as records

_SCALE = [[0.0, "#a06500"], [0.25, "#e0b93c"], [0.5, "#f7f7f7"], [0.75, "#5b6d9a"], [1.0, "#00224e"]]


def retention_difference(
    retention: xr.Dataset,
    first: str,
    second: str,
    layer: int | None = None,
    head: int | None = None,
    start: int | None = None,
    stop: int | None = None,
    steps: tuple[int, int] | None = None,
) -> go.Figure:
    """Draw by how much more often `first` holds a position (x) after a step (y, downwards) than `second`.

    In percentage points of layers and heads: blue where `first` holds it more often, yellow where `second` does, white
    where both hold it alike. For a simulation against a real run of the same text make one record of both with
    `analysis.merge_retention`. The other arguments are as of `plot.eviction_map`. The text alternative is in
    `layout.meta["alt"]`. Raises TreeKVError, listing what there is, for a policy, layer, head or stretch that is not in
    the record.
    """
    part = theme.stretch(retention, start, stop)
    steps = whole_steps(part) if steps is None else steps
    maps = [records.retention_map(part, name, layer, head, theme.MAX_CELLS, steps) for name in (first, second)]
    change = np.rint(100 * np.nan_to_num(maps[0].values - maps[1].values)).astype(np.int8)
    _, words = theme.chosen(retention, layer, head)
    words = words.replace("head", "KV head")
    last = steps[1] - 1
    both = [_held(part, name, layer, head, last) for name in (first, second)]
    union = float((both[0] | both[1]).sum())
    jaccard = float((both[0] & both[1]).sum()) / union if union else 1.0
    step_size, position_size = maps[0].attrs["step_size"], maps[0].attrs["position_size"]
    names = [theme.shown(name) for name in (first, second)]
    figure = theme.figure(
        f"\u201c{names[0]}\u201d against \u201c{names[1]}\u201d",
        f"{words} · after step {last:,} they share {100 * jaccard:.0f} % of what either holds",
        f"Map of step against position, {words}: share of layers and KV heads in which {first} holds a token minus "
        f"that in which {second} does. After step {last} they have {100 * jaccard:.0f} % of the tokens in common that "
        f"either holds; the largest differences anywhere are {change.max():+d} and {change.min():+d} points.",
        height=640,
    )
    figure.add_heatmap(
        x=maps[0]["position"].values + (position_size - 1) / 2,
        y=maps[0]["step"].values + (step_size - 1) / 2,
        z=change,
        zmin=-100,
        zmax=100,
        colorscale=_SCALE,
        colorbar={
            "thickness": 14,
            "outlinewidth": 0,
            "title": {"text": "kept by", "side": "top"},
            "tickvals": [-100, -50, 0, 50, 100],
            "ticktext": [f"only {names[1]}", "", "alike", "", f"only {names[0]}"],
        },
        hovertemplate=f"{at_cell(part)}: %{{z:+d}} points<extra></extra>",
    )
    view = view_of(part, steps)
    hide_future(figure, view, int(retention.attrs["steps"]))
    figure.update_xaxes(title=theme.position_title(position_size, "mean"), showgrid=False, range=view[:2])
    figure.update_yaxes(title="step: tokens processed so far, downwards", showgrid=False, range=view[:1:-1])
    name_columns(figure, part, position_size)
    return figure


def _held(part: xr.Dataset, policy: str, layer: int | None, head: int | None, step: int) -> np.ndarray:
    return records.kept_mask(records.select(part, policy, layer, head), step).values
