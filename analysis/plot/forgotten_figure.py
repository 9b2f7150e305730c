"""When each head forgot a phrase, one small grid of layers and heads for each policy."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from analysis.plot import theme

_MOST_IN_A_ROW = 3
_TITLE_WIDTH = {1: 40, 2: 20, 3: 12}  # characters of the name above a grid on a narrow page


def forgotten(data: xr.Dataset) -> go.Figure:
    """Draw the step at which each layer and KV head forgot a phrase, a grid for each policy.

    `data` is from `analysis.forgotten`, of whose places the first is drawn; select another by
    `data.isel(occurrence=[number])`. All grids have one scale, from the step that read the phrase to the last one:
    the brighter, the longer it was held, and brightest are heads that still hold one of its tokens. Whichever there
    are more of, layers or heads, lies along x. Each cell has a transparent marker, whose `customdata` is its layer and
    head, for selection by a click. The text alternative is in `layout.meta["alt"]`.
    """
    one = data.isel(occurrence=0)
    names = [str(name) for name in one["policy"].values]
    steps, read = int(data.attrs["steps"]), int(one["last"])
    gone = one["forgotten_at"].transpose("policy", "layer", "head").values
    layers, heads = one["layer"].values, one["head"].values
    wide = len(layers) >= len(heads)
    shown = theme.shown(" ".join(str(one["text"].item()).split()))
    kept = [f"{name} {(own < 0).sum()} of {own.size}" for name, own in zip(names, gone, strict=True)]
    columns = min(len(names), _MOST_IN_A_ROW)
    rows = -(-len(names) // columns)
    figure = theme.grid(
        f"When each head forgot \u201c{shown}\u201d",
        f"position {int(one['first']):,}, read by step {read:,} · the brighter, the later · brightest: still kept",
        f"Grids of {len(layers)} layers by {len(heads)} KV heads, one per policy: the step at which each forgot "
        f"\u201c{shown}\u201d. Heads that still keep it after {steps:,} tokens: {', '.join(kept)}.",
        [theme.in_lines(theme.shown(name), _TITLE_WIDTH[columns]) for name in names],
        columns,
        150 + rows * min(max(24 * min(len(layers), len(heads)), 90), 260),
    )
    x, y = (layers, heads) if wide else (heads, layers)
    for number, own in enumerate(gone):
        grid = own.T if wide else own
        row, column = divmod(number, columns)
        place = {"row": row + 1, "col": column + 1}
        when = np.where(grid < 0, steps, grid)
        figure.add_heatmap(x=x, y=y, z=when.astype(np.int32), coloraxis="coloraxis", hoverinfo="skip", **place)
        across, down = (each.ravel() for each in np.meshgrid(x, y))
        words = ["still kept" if at < 0 else f"forgotten at step {at:,}" for at in grid.ravel()]
        pairs = np.stack((across, down) if wide else (down, across), axis=1)
        theme.clickable(
            figure,
            list(zip(across.tolist(), down.tolist(), strict=True)),
            [(int(layer), int(head)) for layer, head in pairs],
            words,
            "layer %{customdata[0]}, KV head %{customdata[1]}: %{text}<extra></extra>",
            **place,
        )
    figure.update_layout(
        coloraxis={
            "colorscale": "Cividis",
            "cmin": read,
            "cmax": max(steps, read + 1),
            "colorbar": {
                "thickness": 14,
                "outlinewidth": 0,
                "tickvals": [read, (read + steps) // 2, steps],
                "ticktext": [f"step {read:,}", f"step {(read + steps) // 2:,}", "kept"],
            },
        }
    )
    across, below = ([float(ends[0]) - 0.5, float(ends[-1]) + 0.5] for ends in (x, y))
    figure.update_xaxes(showgrid=False, showticklabels=True, nticks=5, range=across)
    figure.update_xaxes(title={"text": "layer" if wide else "KV head", "standoff": 6}, row=rows, col=1)
    figure.update_yaxes(showgrid=False, nticks=5, range=below[::-1])
    figure.update_yaxes(title="KV head" if wide else "layer", col=1)
    return figure
