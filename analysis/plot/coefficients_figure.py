"""Wavelet coefficients as a heatmap: level against position."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from analysis import binning
from analysis.plot import theme


def coefficients(
    data: xr.Dataset,
    *,
    layer: int | None = None,
    head: int | None = None,
    start: int | None = None,
    stop: int | None = None,
) -> go.Figure:
    """Draw the mean |coefficient| of `analysis.spectrum`, one row per band, brightness on a logarithmic scale.

    The mean is over layers and heads unless one is selected; long stretches are pooled by their maximum to at most 512
    columns. The text alternative is in `layout.meta["alt"]`. Raises TreeKVError for a layer, head or stretch that does
    not exist.
    """
    picked, words = theme.chosen(theme.stretch(data, start, stop), layer, head)
    values = picked["coefficient"].mean(("layer", "head")).values
    position = picked["position"].values
    edges = binning.edges(len(position), theme.MAX_CELLS)
    cells = binning.largest(values, edges).astype(np.float32)
    bands = [str(band) for band in picked["band"].values]
    with np.errstate(divide="ignore"):
        brightness = np.where(cells > 0, np.log10(cells), np.nan).astype(np.float32)
    # The darkest hundredth would stretch the scale over values that look like zero.
    low, high = _limits(brightness)
    tokens = theme.pooled_tokens(picked, edges)
    width = int(edges[1] - edges[0])

    figure = theme.figure(
        "Wavelet coefficients of the token contributions",
        f"{theme.source(picked)} · {words}",
        _alt(bands, values, position, words),
        height=420,
    )
    figure.add_heatmap(
        x=position[edges[:-1]] + (width - 1) / 2,
        y=bands,
        z=brightness,
        zmin=low,
        zmax=high,
        colorscale="Cividis",
        colorbar=_colorbar(low, high),
        customdata=cells,
        text=[tokens] * len(bands),
        hovertemplate="%{y} at position %{x:.0f}: %{customdata:.3~g}<br>%{text}<extra></extra>",
    )
    figure.update_xaxes(title=theme.position_title(width, "largest"), showgrid=False)
    figure.update_yaxes(title="band, fine above, coarse below", showgrid=False, type="category")
    return figure


def _limits(brightness: np.ndarray) -> tuple[float, float]:
    finite = brightness[np.isfinite(brightness)]
    if not finite.size:
        return 0.0, 1.0
    low, high = float(np.quantile(finite, 0.01)), float(finite.max())
    return low, max(high, low + 1e-3)


def _colorbar(low: float, high: float) -> dict[str, object]:
    powers = list(range(int(np.ceil(low)), int(np.floor(high)) + 1))
    return {
        "title": {"text": "mean |coefficient|", "side": "right"},
        "tickvals": powers,
        "ticktext": [f"10<sup>{power}</sup>" for power in powers],
        "thickness": 14,
        "outlinewidth": 0,
    }


def _alt(bands: list[str], values: np.ndarray, position: np.ndarray, words: str) -> str:
    peaks = ", ".join(f"{band} at {position[row.argmax()]}" for band, row in zip(bands, values, strict=True))
    return (
        f"Heatmap, {words}: mean absolute wavelet coefficient of {len(bands)} bands, lowest at the bottom, "
        f"from position {position[0]} to {position[-1]}. Position of the largest value in each band: {peaks}."
    )
