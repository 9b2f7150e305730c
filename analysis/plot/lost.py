"""The losses of policies by layer: retained attention mass and error of the attention output."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from analysis.plot import theme
from analysis.plot.policy_colours import colours
from treekv.errors import TreeKVError

_SYMBOLS = ("circle", "square", "diamond", "cross", "triangle-up", "x", "star", "hexagon")


def mass_retained(data: xr.Dataset, *, policy: str | None = None) -> go.Figure:
    """Draw the share of attention that each policy retains (y, per cent) against the layer (x).

    `data` is from `analysis.output_loss`. Means over query heads and queries; the hover text adds their tenth and
    ninetieth percentiles. All policies if `policy` is None. The text alternative is in `layout.meta["alt"]`. Raises
    TreeKVError, listing the choices, for a policy that does not exist.
    """
    return _by_layer(
        data["mass"],
        policy,
        "Attention retained, layer by layer",
        "attention mass retained (%)",
        f"mean of {data.sizes['head']} query heads and {_queries(data)}",
    )


def output_error(data: xr.Dataset, *, policy: str | None = None) -> go.Figure:
    """Draw the relative error of the attention output (y, per cent) of each policy against the layer (x).

    `data` is from `analysis.output_loss`. Means over queries; the hover text adds their tenth and ninetieth
    percentiles. All policies if `policy` is None. The text alternative is in `layout.meta["alt"]`. Raises TreeKVError,
    listing the choices, for a policy that does not exist.
    """
    projected = " after the output projection" if data.attrs.get("projected") else ""
    return _by_layer(
        data["error"],
        policy,
        f"Error of the attention output{projected}, layer by layer",
        f"relative error of the attention output{projected} (%)",
        f"mean of {_queries(data)}",
    )


def _by_layer(values: xr.DataArray, policy: str | None, title: str, axis: str, mean_of: str) -> go.Figure:
    names = [str(name) for name in values["policy"].values]
    if policy is not None and policy not in names:
        raise TreeKVError(f"there is no policy {policy!r}; choose one of {', '.join(names)}")
    others = [dim for dim in values.dims if dim not in ("policy", "layer")]
    percent = 100 * values.transpose("policy", "layer", ...).astype(np.float64)
    mean = percent.mean(others)
    low, high = percent.quantile(0.1, others), percent.quantile(0.9, others)
    layers = values["layer"].values.tolist()
    # No line leads over layers that were not computed.
    gaps = [place for place in range(1, len(layers)) if layers[place] > layers[place - 1] + 1]
    table = ", ".join(f"{name} {float(mean.sel(policy=name).mean()):.1f} %" for name in names if policy in (None, name))
    figure = theme.figure(
        title,
        mean_of,
        f"Line chart of {axis} against the layer, {mean_of}. Mean over {len(layers)} "
        f"layer{'' if len(layers) == 1 else 's'}: {table}.",
    )
    for number, (name, colour) in enumerate(zip(names, colours(names), strict=True)):
        if policy not in (None, name):
            continue
        shown = theme.shown(name)
        spread = np.stack((low.sel(policy=name).values, high.sel(policy=name).values), axis=1)
        figure.add_scatter(
            x=np.insert(np.array(layers, dtype=float), gaps, np.nan) if gaps else layers,
            y=np.insert(mean.sel(policy=name).values, gaps, np.nan),
            mode="lines+markers",
            name=shown,
            line={"color": colour, "width": 2},
            marker={"symbol": _SYMBOLS[number % len(_SYMBOLS)], "size": 8},
            customdata=np.insert(spread, gaps, np.nan, axis=0),
            hovertemplate=(
                f"{shown}, layer %{{x}}: %{{y:.1f}} %<br>eight in ten lie between %{{customdata[0]:.1f}} and "
                "%{customdata[1]:.1f} %<extra></extra>"
            ),
        )
    figure.update_xaxes(title="layer")
    figure.update_yaxes(title=axis, rangemode="tozero")
    figure.update_layout(showlegend=True)
    return figure


def _queries(data: xr.Dataset) -> str:
    query = data["query"].values
    if len(query) == 1:
        return f"the query at position {query[0]:,}"
    return f"{len(query)} queries, positions {query[0]:,} to {query[-1]:,}"
