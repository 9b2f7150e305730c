"""The eviction maps of all layers and KV heads as small multiples in one picture."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from analysis.plot import theme
from analysis.retention import record
from analysis.units import count
from treekv.errors import TreeKVError

_CELLS = 1024  # along the longer side of the picture
_LEAST, _MOST = 8, 48  # cells of a map, per side
_NOT_READ = 255  # the value of cells that no step has read, and of the gaps


def head_maps(
    data: xr.Dataset,
    *,
    policy: str | None = None,
    step: int | None = None,
    start: int | None = None,
    stop: int | None = None,
) -> go.Figure:
    """Draw the eviction map of every layer and KV head, position (x) by step (y, downwards), as tiles of one picture.

    Whichever there are more of, layers or heads, lies along x. A tile is pooled to at most 48 cells per side, by the
    mean. Later steps than `step`, the last of the record if None, are left blank, to within a cell. Each tile has a
    transparent marker with its share kept then, whose `customdata` is its layer and head, for selection by a click.
    `policy` may be None if the record has only one. The text alternative is in `layout.meta["alt"]`. Raises
    TreeKVError, listing the choices, for a policy, step or stretch that is not in the record, or a stretch that was not
    read by then.
    """
    part = theme.stretch(data, start, stop)
    policy = str(record.select(data, policy, None, None)["policy"].item())
    layers, heads = data["layer"].values, data["head"].values
    wide = len(layers) >= len(heads)
    along, down = (layers, heads) if wide else (heads, layers)
    position = part["position"].values
    steps = (int(position[0]), int(data.attrs["steps"]))
    last = steps[1] - 1 if step is None else step
    if not 0 <= last < steps[1]:
        raise TreeKVError(f"step must be 0 to {steps[1] - 1}, got {step}")
    read = part.sel(position=slice(None, last))
    if not read.sizes["position"]:
        raise TreeKVError(f"no position from {position[0]} on was read by step {last}; give a later step")
    side = int(np.clip(_CELLS // len(along) - 1, _LEAST, _MOST))
    maps = {
        (int(layer), int(head)): record.retention_map(part, policy, layer, head, side, steps)
        for layer in layers.tolist()
        for head in heads.tolist()
    }
    height, width = next(iter(maps.values())).shape
    picture = np.full((len(down) * (height + 1) - 1, len(along) * (width + 1) - 1), _NOT_READ, np.uint8)
    kept = record.kept_mask(read, last).sel(policy=policy).mean("position")
    across, below, pairs, words = [], [], [], []
    for column, first in enumerate(along.tolist()):
        for row, second in enumerate(down.tolist()):
            layer, head = (first, second) if wide else (second, first)
            cells = maps[layer, head].where(maps[layer, head]["step"] <= last).values
            left, top = column * (width + 1), row * (height + 1)
            percent = np.rint(100 * np.nan_to_num(cells)).astype(np.uint8)
            picture[top : top + height, left : left + width] = np.where(np.isnan(cells), _NOT_READ, percent)
            across.append(left + (width - 1) / 2)
            below.append(top + (height - 1) / 2)
            pairs.append((layer, head))
            words.append(f"{100 * float(kept.sel(layer=layer, head=head)):.0f} %")
    after = "" if step is None else f", after {count(last + 1, 'token')}"
    shares = [float(share) for share in kept.values.ravel()]
    figure = theme.figure(
        f"Tokens kept by the policy \u201c{theme.shown(policy)}\u201d, head by head",
        f"{len(layers)} layers by {len(heads)} KV heads · positions {position[0]:,} to {position[-1]:,} to the right, "
        f"steps downwards{after}",
        f"Small maps of step against position for the policy {policy}, one for each of {len(layers)} layers and "
        f"{len(heads)} KV heads: the share of tokens kept. After step {last} between {100 * min(shares):.0f} and "
        f"{100 * max(shares):.0f} % of them are kept.",
        height=int(np.clip(150 + len(down) * 46, 260, 900)),
    )
    # Above 100 per cent is the ground.
    scale = [[0.0, "#00224e"], [0.25, "#414d6b"], [0.5, "#7c7b78"], [0.75, "#bcae6c"], [100 / 101, "#fee838"]]
    figure.add_heatmap(
        z=picture,
        zmin=0,
        zmax=101,
        colorscale=[*scale, [100 / 101, "#f2f3f5"], [1.0, "#f2f3f5"]],
        showscale=False,
        hoverinfo="skip",
    )
    theme.clickable(
        figure,
        list(zip(across, below, strict=True)),
        pairs,
        words,
        "layer %{customdata[0]}, KV head %{customdata[1]}: %{text} kept<extra></extra>",
    )
    middle = [number * (size + 1) + (size - 1) / 2 for size, number in ((width, n) for n in range(len(along)))]
    beside = [number * (height + 1) + (height - 1) / 2 for number in range(len(down))]
    figure.update_xaxes(
        title="layer" if wide else "KV head",
        tickvals=middle,
        ticktext=along.tolist(),
        showgrid=False,
        range=[-0.5, picture.shape[1] - 0.5],
    )
    figure.update_yaxes(
        title="KV head" if wide else "layer",
        tickvals=beside,
        ticktext=down.tolist(),
        showgrid=False,
        range=[picture.shape[0] - 0.5, -0.5],
    )
    return figure
