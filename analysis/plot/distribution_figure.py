"""The paper's figure 1: which tokens of a short text each policy keeps, layer by layer."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from analysis import binning
from analysis.plot import theme
from treekv import policies

_CELLS = 256  # positions of a map; a narrow page has fewer pixels


def distribution_maps(data: xr.Dataset) -> go.Figure:
    """Draw `analysis.paper.figure1`: one map per policy, positions (x) by layers (y), bright where heads keep a token.

    Above each map are its regional bias, the Gini coefficient over tenths of the text (0 if all are kept alike), and
    the longest stretch without a kept token, means over layers and KV heads. Positions are pooled by their mean to at
    most 256. The text alternative, with the share kept of each quarter, is in `layout.meta["alt"]`.
    """
    mean = data[["gini", "longest_gap"]].mean(("layer", "head"))
    kept = data["kept"].transpose("policy", "layer", "head", "position").values.mean(2)
    names = [theme.shown(policies.title(str(policy))) for policy in data["policy"].values]
    numbers = [
        f"bias {float(mean['gini'][i]):.2f}<br>longest gap {float(mean['longest_gap'][i]):.0f}"
        for i in range(len(names))
    ]
    edges = binning.edges(data.sizes["position"], _CELLS)
    size = int(edges[1] - edges[0])
    tokens, cache = int(data.attrs["tokens"]), int(data.attrs["cache_size"])
    ideal = float(data["ideal_gini"].mean())
    said = [
        f"{name} {number.replace('<br>', ' and ')}, quarters kept to "
        + ", ".join(f"{100 * part.mean():.0f} %" for part in np.array_split(share.mean(0), 4))
        for name, number, share in zip(names, numbers, kept, strict=True)
    ]
    figure = theme.grid(
        f"Which {cache:,} of {tokens:,} tokens are kept, nothing protected",
        f"{theme.shown(str(data.attrs['model']))} · share of {data.sizes['head']} KV heads · bias: Gini coefficient "
        f"over tenths of the text, {ideal:.2f} for an ideal tree · longest gap: tokens without a kept one",
        f"Map of layer against position for each policy, mean over {data.sizes['head']} KV heads: {'; '.join(said)}.",
        [f"{name}<br>{number}" for name, number in zip(names, numbers, strict=True)],
        len(names),
        430,
    )
    for number, share in enumerate(kept):
        figure.add_heatmap(
            x=(edges[:-1] + edges[1:] - 1) / 2,
            y=data["layer"].values,
            z=np.rint(100 * binning.mean(share, edges)).astype(np.uint8),
            coloraxis="coloraxis",
            hovertemplate=f"{names[number]}, layer %{{y}}, position %{{x:.0f}}: kept %{{z}} %<extra></extra>",
            row=1,
            col=number + 1,
        )
    figure.update_layout(
        coloraxis={
            "colorscale": "Cividis",
            "cmin": 0,
            "cmax": 100,
            "colorbar": {
                "thickness": 14,
                "outlinewidth": 0,
                "title": {"text": "kept", "side": "top"},
                "tickvals": [0, 50, 100],
                "ticktext": ["0 %", "50 %", "100 %"],
            },
        }
    )
    title = theme.position_title(size, "mean").replace("position in the text", "position")
    for number, axis in enumerate(list(figure.select_xaxes())):
        label = {"title": {"text": title}} if number == len(names) // 2 else {}
        theme.style(figure, axis, showgrid=False, nticks=4, **label)
    for number, axis in enumerate(list(figure.select_yaxes())):
        label = {"title": {"text": "layer"}} if number == 0 else {}
        theme.style(figure, axis, showgrid=False, **label)
    return figure
