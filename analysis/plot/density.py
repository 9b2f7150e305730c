"""How densely each policy keeps the past."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from analysis import pooling
from analysis import retention as records
from analysis.plot import theme

_CELLS = 160
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")


def density(retention: xr.Dataset, step: int | None = None) -> go.Figure:
    """Draw the share of layers and KV heads that hold a token (y) against its distance from the newest (x).

    One line a policy, after `step` (the last one when None). The distance axis is logarithmic, and the share is
    averaged over runs of distances that grow likewise, so that at most 160 points are drawn a line. The
    text alternative is in `layout.meta["alt"]`. Raises TreeKVError for a step outside the record.
    """
    step = int(retention.attrs["steps"]) - 1 if step is None else step
    share = 100 * records.density(retention, step, max_cells=step + 1)
    distance = share["distance"].values
    names = [theme.shown(str(name)) for name in share["policy"].values]
    quarters = []
    for name, line in zip(names, share.values, strict=True):
        means = [line[(distance >= a * step / 4) & (distance <= (a + 1) * step / 4)].mean() for a in range(4)]
        quarters.append(f"{name} {', '.join(f'{mean:.0f} %' for mean in means)}")
    figure = theme.figure(
        "How densely the past is kept",
        f"after {step + 1:,} tokens · mean of {retention.sizes['layer']} layers and {retention.sizes['head']} KV heads",
        "Share of layers and heads that hold a token against its distance from the newest; the four quarters of the "
        f"text from the newest to the oldest: {'; '.join(quarters)}.",
    )
    borders = np.unique(np.rint(np.geomspace(1, step + 2, _CELLS)).astype(int)) - 1
    for number, (name, colour) in enumerate(zip(names, theme.ordered_colours(len(names)), strict=True)):
        figure.add_scatter(
            x=pooling.mean(distance + 1.0, borders),
            y=pooling.mean(share.values[number], borders),
            mode="lines",
            name=name,
            line={"color": colour, "width": 2.5, "dash": _DASHES[number % len(_DASHES)]},
            hovertemplate=f"{name}, %{{x:.0f}} tokens back: %{{y:.0f}} %<extra></extra>",
        )
    figure.update_xaxes(
        title="distance from the newest token (tokens; 1 is the newest)", type="log", tickvals=_ticks(step + 1)
    )
    figure.update_yaxes(title="kept (% of layers and heads)", range=[0, 103])
    figure.update_layout(showlegend=True)
    return figure


def _ticks(largest: int) -> list[int]:
    return [tick for power in range(len(str(largest))) for tick in (10**power, 2 * 10**power, 5 * 10**power)]
