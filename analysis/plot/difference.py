"""The difference between two policies, or between a simulation and a real run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from analysis.plot import theme
from analysis.plot.eviction_maps_figure import at_cell, hide_future, name_columns, view_of, whole_steps
from analysis.retention import record
from analysis.retention.agreement import agreement_over_time
from treekv.errors import TreeKVError

# Nothing is drawn where there is no difference, and the smallest one, of a hundredth, has a colour of its own.
_CLEAR = "rgba(0,0,0,0)"
_SCALE = [
    [0.0, "#a06500"],
    [0.4975, "#e0b93c"],
    [0.4975, _CLEAR],
    [0.5025, _CLEAR],
    [0.5025, "#7f9fd6"],
    [1.0, "#1f4e9e"],
]


def retention_difference(
    data: xr.Dataset,
    *,
    policies: Sequence[str] | None = None,
    layer: int | None = None,
    head: int | None = None,
    steps: tuple[int, int] | None = None,
    start: int | None = None,
    stop: int | None = None,
) -> go.Figure:
    """Draw how much more often the first of two policies keeps a position (x) after a step (y, downwards).

    In percentage points of layers and heads: blue where the first keeps it more often, yellow where the second does,
    nothing where there is no difference. `policies` are the two names, those of the record if None. To compare a
    simulation with a real run of the same text, merge their records with `analysis.merge_retention`. The other
    arguments are those of `plot.eviction_map`. The text alternative is in `layout.meta["alt"]`. Raises TreeKVError,
    listing the choices, for a policy, layer, head or stretch that is not in the record, or not two policies.
    """
    names = [str(name) for name in data["policy"].values] if policies is None else list(policies)
    if len(names) != 2:
        raise TreeKVError(f"give the two policies to compare, got {', '.join(names) or 'none'}")
    first, second = names
    part = theme.stretch(data, start, stop)
    steps = whole_steps(part) if steps is None else steps
    maps = [record.retention_map(part, name, layer, head, theme.MAX_CELLS, steps) for name in (first, second)]
    change = np.rint(100 * np.nan_to_num(maps[0].values - maps[1].values)).astype(np.int8)
    _, words = theme.chosen(data, layer, head)
    words = words.replace("head", "KV head")
    last = steps[1] - 1
    both = [_kept(part, name, layer, head, last) for name in (first, second)]
    union = float((both[0] | both[1]).sum())
    jaccard = float((both[0] & both[1]).sum()) / union if union else 1.0
    over_time = 100 * agreement_over_time(part, names, layer, head)
    step_size, position_size = maps[0].attrs["step_size"], maps[0].attrs["position_size"]
    titles = [theme.shown(name) for name in names]
    figure = theme.figure(
        f"\u201c{titles[0]}\u201d against \u201c{titles[1]}\u201d",
        f"{words} · over all steps they share {over_time:.1f} % of what either keeps · after step {last:,} "
        f"{100 * jaccard:.0f} %",
        f"Map of step against position, {words}: share of layers and KV heads in which {first} keeps a token minus "
        f"that in which {second} does. Over all steps they share {over_time:.1f} % of what either keeps. After step "
        f"{last} they have {100 * jaccard:.0f} % of the tokens in common that either keeps; the largest differences "
        f"anywhere are {change.max():+d} and {change.min():+d} points.",
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
            "ticktext": [f"only {titles[1]}", "", "alike", "", f"only {titles[0]}"],
        },
        hovertemplate=f"{at_cell(part)}: %{{z:+d}} points<extra></extra>",
    )
    view = view_of(part, steps)
    hide_future(figure, view, int(data.attrs["steps"]), ground=_CLEAR)
    figure.update_xaxes(title=theme.position_title(position_size, "mean"), showgrid=False, range=view[:2])
    figure.update_yaxes(title="step: tokens processed so far, downwards", showgrid=False, range=view[:1:-1])
    name_columns(figure, part, position_size)
    return figure


def _kept(part: xr.Dataset, policy: str, layer: int | None, head: int | None, step: int) -> np.ndarray:
    return record.kept_mask(record.select(part, policy, layer, head), step).values
