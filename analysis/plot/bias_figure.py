"""How unevenly policies keep a text, as bars."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from analysis.plot import theme
from analysis.plot.policy_colours import colours

_IDEAL = "#a06500"


def bias(data: xr.Dataset) -> go.Figure:
    """Draw the two numbers of `analysis.recency_bias`, one bar per policy, with the spread over layers and KV heads.

    Left: the earth mover's distance to the ideal density of the tree, in tokens. Right: the Gini coefficient over
    tenths of the text, with a diamond for that of the ideal. Bars are means over layers and heads, whiskers one
    standard deviation; undefined numbers have no bar. The text alternative is in `layout.meta["alt"]`.
    """
    names = [str(name) for name in data["policy"].values]
    shown = [theme.shown(name) for name in names]
    mean, spread = data.mean(("layer", "head")), data.std(("layer", "head"))
    words = []
    for name in names:
        row = mean.sel(policy=name)
        distance = float(row["distance"])
        far = "no distance" if np.isnan(distance) else f"{distance:,.0f} tokens"
        words.append(f"{name} {far} and {float(row['gini']):.2f}")
    heads = f"mean of {data.sizes['layer']} layers and {data.sizes['head']} KV heads"
    figure = theme.grid(
        "How unevenly the text is kept",
        f"after {int(data.attrs['step']) + 1:,} tokens · {heads}, whiskers: standard deviation",
        "Two bars per policy, distance of the kept tokens from the tree's ideal density and Gini coefficient "
        f"over tenths of the text, {heads}: {'; '.join(words)}.",
        ["distance to the tree's ideal", "over tenths of the text (\u25c6 ideal)"],
        2,
        210 + 34 * len(names),
        shared=False,
    )
    for column, (variable, unit) in enumerate((("distance", " tokens"), ("gini", "")), start=1):
        figure.add_bar(
            x=mean[variable].values,
            y=shown,
            error_x={"array": spread[variable].values, "color": theme.INK, "thickness": 1.2},
            orientation="h",
            marker={"color": colours(names)},
            hovertemplate=f"%{{y}}: %{{x:.3~g}}{unit}<extra></extra>",
            showlegend=False,
            row=1,
            col=column,
        )
    figure.add_scatter(
        x=mean["ideal_gini"].values,
        y=shown,
        mode="markers",
        name="the tree's ideal",
        marker={"symbol": "diamond", "size": 11, "color": _IDEAL, "line": {"color": "white", "width": 1}},
        hovertemplate="%{y}: %{x:.3~g} for the ideal<extra></extra>",
        showlegend=False,
        row=1,
        col=2,
    )
    figure.update_xaxes(title="earth mover's distance (tokens)", rangemode="tozero", row=1, col=1)
    figure.update_xaxes(title="Gini coefficient (0: all tenths alike)", range=[0, 1], row=1, col=2)
    figure.update_yaxes(autorange="reversed", showgrid=False, automargin=True)
    figure.update_yaxes(showticklabels=False, row=1, col=2)  # the labels on the left serve both panels
    return figure
