"""What each policy leaves of the wavelet bands, band against distance from the query, side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from analysis.plot import theme
from treekv.errors import TreeKVError

_COLUMNS = 3  # maps in a row
_KINDS = {"values": "survival", "loss": "loss_survival"}


def survival(data: xr.Dataset, *, policies: Sequence[str] | None = None, by: str | None = None) -> go.Figure:
    """Draw how much of each band (y, the finest above) survives at each distance from the query (x), for each policy.

    `data` is what `analysis.survival` returns. `by` is "loss" for the contributions along the gradient of the text's
    loss, "values" for the contributions themselves; None takes the first that the data has. `policies` are all of them
    if None. Cells are in per cent of the band's energy. The text alternative is in `layout.meta["alt"]`. Raises
    TreeKVError, listing the choices, for a policy or kind that does not exist.
    """
    there = [kind for kind in ("loss", "values") if _KINDS[kind] in data]
    by = there[0] if by is None else by
    if by not in there:
        raise TreeKVError(f"there is no survival by {by!r}; choose one of {', '.join(there)}")
    every = [str(name) for name in data["policy"].values]
    names = every if policies is None else list(policies)
    wrong = [name for name in names if name not in every]
    if wrong or not names:
        raise TreeKVError(f"there is no policy {wrong[0] if wrong else ''!r}; choose of {', '.join(every)}")
    bands = [str(band) for band in data["band"].values]
    ranges = [
        f"{a:,}\u2013{b - 1:,}" for a, b in zip(data["distance"].values, data["distance_end"].values, strict=True)
    ]
    share = 100 * data[_KINDS[by]].transpose("policy", "band", "distance")
    columns = min(len(names), _COLUMNS)
    rows = -(-len(names) // columns)
    what = "along the gradient of the loss" if by == "loss" else "of the contributions"
    far = [f"{name} {bands[-1]} {_far(share, name, -1)}, {bands[0]} {_far(share, name, 0)}" for name in names]
    figure = theme.grid(
        "What survives of each wavelet band",
        f"share of the band's energy {what} · by distance from the query · finest band above",
        f"Maps of wavelet band against distance from the query, one per policy: per cent of the band's energy, {what}, "
        f"that what is kept reproduces. Mean at distances of {ranges[len(ranges) // 2]} and more: {'; '.join(far)}.",
        [theme.shown(name) for name in names],
        columns,
        130 + 300 * rows,
    )
    for number, name in enumerate(names):
        row, column = divmod(number, columns)
        figure.add_heatmap(
            x=ranges,
            y=bands,
            z=share.sel(policy=name).values.astype(np.float32),
            coloraxis="coloraxis",
            hovertemplate="%{y}, %{x} tokens before the query: %{z:.0f} %<extra></extra>",
            row=row + 1,
            col=column + 1,
        )
    bar = {"title": {"text": "survives, %", "side": "top"}, "thickness": 14, "outlinewidth": 0}
    figure.update_layout(coloraxis={"colorscale": "Cividis", "cmin": 0, "cmax": 100, "colorbar": bar})
    figure.update_xaxes(type="category", showgrid=False, tickangle=-60)
    figure.update_yaxes(type="category", showgrid=False)
    figure.update_xaxes(title="tokens before the query", row=rows, col=1)
    figure.update_yaxes(title="band", row=1, col=1)
    return figure


def _far(share: xr.DataArray, policy: str, band: int) -> str:
    """Mean over the farther half of the distances."""
    values = share.sel(policy=policy).isel(band=band, distance=slice(share.sizes["distance"] // 2, None)).values
    seen = values[np.isfinite(values)]
    return f"{seen.mean():.0f} %" if seen.size else "unknown"
