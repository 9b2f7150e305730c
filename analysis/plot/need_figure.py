"""How many tokens each KV head gets, layer against head, from its need."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from analysis.plot import theme

_MAX_ANNOTATED = 16  # heads; with more, the numbers in the cells would overlap


def need_budgets(data: xr.DataArray) -> go.Figure:
    """Draw the budget of every KV head (x) in every layer (y), as `analysis.need_budgets` gives it.

    Colours are on a logarithmic scale around the mean: grey is the mean, blue less, yellow more. The need of a head is
    in its hover text. The text alternative is in `layout.meta["alt"]`.
    """
    budgets = data.transpose("layer", "head").values
    layers, heads = data["layer"].values, data["head"].values
    mean = int(data.attrs["cache_size"])
    ratio = np.log2(budgets / mean)
    limit = max(float(np.abs(ratio).max()), 0.1)
    where = np.unravel_index(int(budgets.argmax()), budgets.shape)
    by_layer = budgets.mean(1)
    most, least = layers[int(by_layer.argmax())], layers[int(by_layer.argmin())]
    figure = theme.figure(
        "Tokens that each head needs",
        f"mean {mean:,} · from the finest Haar band along the gradient of the loss, over the far context",
        f"Grid of {len(layers)} layers by {len(heads)} KV heads: tokens for each head, {mean} on average. Median "
        f"{np.median(budgets):.0f}, least {budgets.min()}, most {budgets.max()} in layer {layers[where[0]]}, head "
        f"{heads[where[1]]}. On average layer {most} gets most and layer {least} least.",
        height=theme.grid_height(len(layers)),
    )
    ticks = [tick for tick in (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8, 16) if abs(np.log2(tick)) <= limit]
    annotated = len(heads) <= _MAX_ANNOTATED
    figure.add_heatmap(
        x=heads.tolist(),
        y=layers.tolist(),
        z=ratio.astype(np.float32),
        zmin=-limit,
        zmax=limit,
        colorscale=theme.DIVERGING,
        customdata=np.stack((budgets, data["need"].transpose("layer", "head").values), axis=-1),
        text=[[f"{value:,}" for value in row] for row in budgets.tolist()] if annotated else None,
        texttemplate="%{text}" if annotated else None,
        colorbar={
            "title": {"text": "tokens", "side": "top"},
            "tickvals": [float(np.log2(tick)) for tick in ticks],
            "ticktext": [f"{mean * tick:,.0f}" for tick in ticks],
            "thickness": 14,
            "outlinewidth": 0,
        },
        hovertemplate="layer %{y}, KV head %{x}: %{customdata[0]:,} tokens, need %{customdata[1]:.2g}<extra></extra>",
    )
    figure.update_xaxes(title="KV head", showgrid=False, type="category")
    figure.update_yaxes(title="layer, the deepest below", showgrid=False, type="category", autorange="reversed")
    return figure
