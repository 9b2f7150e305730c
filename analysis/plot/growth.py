"""The growth ratio of one band in every head, layer against head."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from analysis.plot import theme
from analysis.wavelets.growth import band_growth
from treekv.errors import TreeKVError

_SHARE = 0.95  # of the heads whose colours differ; a few grow so much that the others would look alike


def growth_grid(data: xr.Dataset, *, band: str | None = None) -> go.Figure:
    """Draw the growth of the amplitude of a band towards the end in every layer (y) and query head (x).

    `data` is a spectrum. Growth is that of `analysis.band_growth`: the mean over the last 64 positions divided by that
    over the first quarter, on a logarithmic scale that reaches as far as 19 of 20 heads; grey is no growth. The value
    of a cell is in its hover text, and a click can choose its layer and head (see `theme.clickable`). `band` is a name
    such as "D1", the highest band if None. The text alternative is in `layout.meta["alt"]`. Raises TreeKVError, listing
    the choices, for a band that does not exist.
    """
    bands = [str(name) for name in data["band"].values]
    band = bands[-1] if band is None else band
    if band not in bands:
        raise TreeKVError(f"there is no band {band!r}; choose one of {', '.join(bands)}")
    ratio = band_growth(data).sel(band=band)
    values, layers, heads = ratio.values, ratio["layer"].values, ratio["head"].values
    with np.errstate(divide="ignore", invalid="ignore"):
        logarithm = np.where(np.isfinite(values) & (values > 0), np.log10(values), np.nan)
    seen = logarithm[np.isfinite(logarithm)]
    limit = max(float(np.quantile(np.abs(seen), _SHARE)) if seen.size else 1.0, 0.1)
    beyond = " · 1 in 20 heads lies beyond the colours" if seen.size and float(np.abs(seen).max()) > limit else ""
    grew = 100 * float((values > 1.1).mean())
    where = np.unravel_index(int(np.nanargmax(logarithm)) if seen.size else 0, values.shape)
    median = f"{10 ** float(np.median(seen)):.3g}" if seen.size else "unknown"
    last, first = ratio.attrs["last_positions"], ratio.attrs["first_positions"]
    figure = theme.figure(
        f"Growth of {theme.shown(band)} towards the end, head by head",
        f"{theme.source(data)} · last {last} positions over the first {first}{beyond}",
        f"Grid of {len(layers)} layers by {len(heads)} query heads: amplitude of band {band} over the last {last} "
        f"positions divided by that over the first {first}. Median {median}; {grew:.0f} % of the heads grow by more "
        f"than a tenth; most grows layer {layers[where[0]]}, head {heads[where[1]]}, by "
        f"{values[where]:.3g}.",
        height=theme.grid_height(len(layers)),
    )
    figure.add_heatmap(
        x=heads.tolist(),
        y=layers.tolist(),
        z=logarithm.astype(np.float32),
        zmin=-limit,
        zmax=limit,
        colorscale=theme.DIVERGING,
        colorbar=_colorbar(limit),
        hoverinfo="skip",
    )
    theme.clickable(
        figure,
        [(int(head), int(layer)) for layer in layers for head in heads],
        [(int(layer), int(head)) for layer in layers for head in heads],
        hovertemplate=f"layer %{{customdata[0]}}, head %{{customdata[1]}}: {theme.shown(band)} grows by %{{text}}"
        "<extra></extra>",
        text=[f"{value:.3g}" for value in values.ravel()],
    )
    figure.update_xaxes(title="query head", showgrid=False, type="category")
    figure.update_yaxes(title="layer, the deepest below", showgrid=False, type="category", autorange="reversed")
    return figure


def _colorbar(limit: float) -> dict[str, object]:
    powers = [10.0**power for power in range(-int(limit), int(limit) + 1)]
    nice = [0.2, 0.5, 1, 2, 5] if limit < 1 else [0.1, 0.2, 0.5, 1, 2, 5, 10] if limit < 2 else powers
    ticks = [tick for tick in nice if abs(np.log10(tick)) <= limit]
    return {
        "title": {"text": "growth", "side": "top"},
        "tickvals": [float(np.log10(tick)) for tick in ticks],
        "ticktext": [f"{tick:g}" for tick in ticks],
        "thickness": 14,
        "outlinewidth": 0,
    }
