"""How densely each policy keeps the past."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from analysis import binning
from analysis.plot import theme
from analysis.plot.policy_colours import colours
from analysis.retention import record
from treekv.errors import TreeKVError

_CELLS = 160


def density(
    data: xr.Dataset,
    *,
    layer: int | None = None,
    head: int | None = None,
    step: int | None = None,
    start: int | None = None,
    stop: int | None = None,
) -> go.Figure:
    """Draw the share of layers and KV heads that keep a token (y) against its distance from the newest (x).

    One line per policy, after `step` (the last one if None). With a layer and a KV head selected, a token is either
    kept or not. The distance axis is logarithmic, and the share is averaged over runs of distances of logarithmic
    length, at most 160 points per line. The text alternative is in `layout.meta["alt"]`. Raises TreeKVError for a
    step, layer or head that is not in the record, or a stretch that was not read by then.
    """
    step = int(data.attrs["steps"]) - 1 if step is None else step
    part = theme.stretch(data, start, stop)
    share = 100 * record.density(part, step, max_cells=step + 1, layer=layer, head=head)
    where = theme.chosen(data, layer, head)[1].replace("head", "KV head")
    averaged = [f"{name}s" for name, value in (("layer", layer), ("head", head)) if value is None]
    whole = " and ".join(averaged) or "tokens"
    distance = share["distance"].values
    if not len(distance):
        raise TreeKVError(f"after step {step} no position from {start} on was read; give a smaller start")
    near, far = int(distance[0]), int(distance[-1])
    names = [theme.shown(str(name)) for name in share["policy"].values]
    quarters = []
    for name, line in zip(names, share.values, strict=True):
        means = [part.mean() for part in np.array_split(line, min(4, len(line)))]
        quarters.append(f"{name} {', '.join(f'{mean:.0f} %' for mean in means)}")
    figure = theme.figure(
        "How densely the past is kept",
        f"after {step + 1:,} tokens · {where}{_stretch(part, step)}",
        f"Share of {whole} that {'keep a token' if averaged else 'are kept'} against the distance from the newest, "
        f"{near} to {far}, {where}; the four quarters of these from the nearest to the farthest: "
        f"{'; '.join(quarters)}.",
    )
    borders = np.unique(np.rint(np.geomspace(near + 1, far + 2, _CELLS)).astype(int)) - 1 - near
    for number, (name, colour) in enumerate(zip(names, colours(names), strict=True)):
        figure.add_scatter(
            x=binning.mean(distance + 1.0, borders),
            y=binning.mean(share.values[number], borders),
            mode="lines",
            name=name,
            line={"color": colour, "width": 2.5, "dash": theme.dash(number)},
            hovertemplate=f"{name}, %{{x:.0f}} tokens back: %{{y:.0f}} %<extra></extra>",
        )
    figure.update_xaxes(
        title="distance from the newest token (tokens; 1 is the newest)",
        type="log",
        tickvals=_ticks(near + 1, far + 1),
        range=[np.log10(near + 1) - 0.005, np.log10(far + 1) + 0.005],
    )
    figure.update_yaxes(title=f"kept (% of {whole})", range=[0, 103])
    figure.update_layout(showlegend=True)
    return figure


def _stretch(part: xr.Dataset, step: int) -> str:
    """Which positions, where it is not the whole text."""
    position = part["position"].values
    if position[0] == 0 and position[-1] >= step:
        return ""
    return f" · positions {position[0]:,} to {min(int(position[-1]), step):,}"


def _ticks(smallest: int, largest: int) -> list[int]:
    ticks = [tick for power in range(len(str(largest))) for tick in (10**power, 2 * 10**power, 5 * 10**power)]
    inside = [tick for tick in ticks if smallest <= tick <= largest]
    return inside if len(inside) > 1 else sorted({smallest, (smallest + largest) // 2, largest})
