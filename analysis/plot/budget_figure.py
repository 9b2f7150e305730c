"""Quality against budget: the loss of settings at several cache sizes."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from analysis.plot import theme
from analysis.plot.policy_colours import colours
from treekv.errors import TreeKVError


def budget_curve(data: xr.DataArray | xr.Dataset) -> go.Figure:
    """Draw the loss above the full cache (y, nats a token) of each of the settings against the cache size (x).

    `data` is from `analysis.budget_curve`, or a Dataset with one such array called `predicted` (lines) and one called
    `measured` (markers), over the same settings and sizes. Both axes start where the values do; sizes are on a
    logarithmic scale. The text alternative is in `layout.meta["alt"]`. Raises TreeKVError where there is no value.
    """
    if isinstance(data, xr.DataArray):
        data = xr.Dataset({"measured" if data.attrs.get("source") == "run" else "predicted": data})
    kinds = [kind for kind in ("predicted", "measured") if kind in data and bool(np.isfinite(data[kind]).any())]
    if not kinds:
        raise TreeKVError("the curve has no loss of any setting at any size")
    names, sizes = [str(name) for name in data["policy"].values], data["size"].values
    first = data[kinds[0]]
    rows = zip(names, first.transpose("policy", "size").values, strict=True)
    table = "; ".join(f"{name} {', '.join(_points(sizes, row))}" for name, row in rows)
    figure = theme.figure(
        "Loss against budget",
        f"nats a token above the full cache · {' and '.join(kinds)}" + " (markers)" * (len(kinds) == 2),
        f"Line chart of loss above the full cache, {kinds[0]}, against the tokens kept: {table}.",
        height=400,
    )
    for number, (name, colour) in enumerate(zip(names, colours(names), strict=True)):
        for kind in kinds:
            values = data[kind].sel(policy=name).values
            is_line = kind == kinds[0]
            if not np.isfinite(values).any():
                continue
            figure.add_scatter(
                x=sizes,
                y=values,
                mode="lines+markers" if is_line else "markers",
                name=theme.shown(name) if is_line else f"{theme.shown(name)}, {kind}",
                line={"color": colour, "width": 2.5, "dash": theme.dash(number)},
                marker={"color": colour, "size": 7 if is_line else 11, "symbol": "circle" if is_line else "x"},
                connectgaps=False,
                hovertemplate=f"{theme.shown(name)}, %{{x:,}} tokens: %{{y:+.3f}} {kind}<extra></extra>",
            )
    figure.update_xaxes(
        title="budget (tokens for each layer and KV head)",
        type="log",
        tickvals=sizes,
        ticktext=[f"{size:,}" for size in sizes],
    )
    figure.update_yaxes(title="loss above full (nats a token)", rangemode="tozero")
    figure.update_layout(showlegend=True)
    return figure


def _points(sizes: np.ndarray, row: np.ndarray) -> list[str]:
    return [f"{value:+.3f} at {size:,}" for size, value in zip(sizes, row, strict=True) if np.isfinite(value)]
