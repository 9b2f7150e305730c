"""The paper's figure: amplitude of each wavelet band against the position in the text."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from analysis import binning
from analysis.plot import theme
from analysis.wavelets.growth import Ends

_STD = {"texts": "text_std", "queries": "query_std"}
_POINTS = 128  # per line; more would hide the trend behind single tokens


def spectrum(
    data: xr.Dataset,
    *,
    layer: int | None = None,
    head: int | None = None,
    start: int | None = None,
    stop: int | None = None,
    spread: bool = False,
) -> go.Figure:
    """Draw the amplitude of `analysis.spectrum`, one line per band, on a logarithmic scale.

    Averaged over layers and heads unless one is selected; positions are pooled by their mean to at most 128 points per
    line. `spread` shades one standard deviation on either side: over the texts of a mean spectrum, otherwise over the
    queries, averaged over the heads drawn. The text alternative is in `layout.meta["alt"]`. Raises TreeKVError for a
    layer, head or stretch that does not exist.
    """
    picked, words = theme.chosen(theme.stretch(data, start, stop), layer, head)
    amplitude = picked["amplitude"].mean(("layer", "head")).values
    position = picked["position"].values
    edges = binning.edges(len(position), _POINTS)
    lines = binning.mean(amplitude, edges)
    x = (position[edges[:-1]] + position[edges[1:] - 1]) / 2
    tokens = theme.pooled_tokens(picked, edges)
    bands = [str(band) for band in picked["band"].values]
    labels, legend = _labels(picked)

    figure = theme.figure(
        "Token contributions by frequency band",
        f"{theme.source(picked)} · {words}",
        _alt(bands, amplitude, position, words),
        height=450,
    )
    colours = theme.ordered_colours(len(bands))
    if spread:
        over = "texts" if "text_std" in picked else "queries"
        legend += f"<br>shaded: \u00b1 1 standard deviation over {over}"
        deviation = binning.mean(picked[_STD[over]].mean(("layer", "head")).values, edges)
        for number, band in enumerate(bands):
            _shade(figure, x, lines[number], deviation[number], band, colours[number])
    above = "%{text}<br>"
    for number in range(len(bands) - 1, -1, -1):  # the finest band heads the legend
        figure.add_scatter(
            x=x.astype(np.float32),
            y=np.where(lines[number] > 0, lines[number], np.nan).astype(np.float32),
            mode="lines",
            name=labels[number],
            legendgroup=bands[number],
            line={"color": colours[number], "width": 1.8, "dash": "solid" if number else "dot"},
            text=tokens,
            # One tooltip has all bands; the tokens stand above them, with the finest.
            hovertemplate=f"{above if number == len(bands) - 1 else ''}{bands[number]}: %{{y:.3~g}}<extra></extra>",
        )
    figure.update_xaxes(title=theme.position_title(int(edges[1] - edges[0]), "mean"), hoverformat=".0f")
    drawn = lines[np.isfinite(lines) & (lines > 0)]
    ticks = theme.log_ticks(float(drawn.min()), float(drawn.max())) if drawn.size else {}
    figure.update_yaxes(title="amplitude (units of the values)", type="log", exponentformat="power", **ticks)
    theme.legend_below(figure, legend, len(bands))  # beside the plot it would take half of a narrow page
    figure.update_layout(hovermode="x unified")
    return figure


def _shade(figure: go.Figure, x: np.ndarray, line: np.ndarray, deviation: np.ndarray, band: str, colour: str) -> None:
    """Shade one standard deviation above and below; a lower end at or below zero is drawn at a tenth of the line."""
    if not (line > 0).any():
        return
    low = np.where(deviation < line, line - deviation, line / 10)
    seen = line > 0
    x, line, deviation, low = x[seen].astype(np.float32), line[seen], deviation[seen], low[seen]
    least = line.min() / 100
    low, high = (np.maximum(end, least).astype(np.float32) for end in (low, line + deviation))
    theme.shade(figure, x, low, high, colour, band)


def _labels(dataset: xr.Dataset) -> tuple[list[str], str]:
    """The legend: what each band compares, in tokens for Haar and by the length of a period for other wavelets."""
    bands = [str(band) for band in dataset["band"].values]
    haar = dataset.attrs.get("wavelet", "haar") in ("haar", "db1")
    if haar and dataset.attrs.get("transform", "dwt") != "packet":
        labels = []
        for band, level in zip(bands, dataset["level"].values.tolist(), strict=True):
            labels.append(band_label(band, level))
        return labels, "band: tokens compared"
    edges = zip(bands, dataset["low_frequency"].values, dataset["high_frequency"].values, strict=True)
    return [
        f"{band}: above {1 / high:.3g}" if low == 0 else f"{band}: {1 / high:.3g} to {1 / low:.3g}"
        for band, low, high in edges
    ], "band: tokens per period"


def band_label(band: str, level: int) -> str:
    """A band of the Haar wavelet by what it compares: "D1: adjacent tokens", "D3: adjacent 4-token averages"."""
    if band.startswith("A"):
        return f"{band}: {2**level}-token average"
    half = 2 ** (level - 1)
    return f"{band}: adjacent {'tokens' if half == 1 else f'{half}-token averages'}"


def _alt(bands: list[str], amplitude: np.ndarray, position: np.ndarray, words: str) -> str:
    ends = Ends.of(len(position))
    growth = ends.growth(amplitude)
    table = ", ".join(f"{band} {ratio:.1f}" for band, ratio in zip(bands, growth, strict=True))
    return (
        f"Line chart on a logarithmic scale, {words}: mean amplitude of {len(bands)} wavelet bands from "
        f"position {position[0]} to {position[-1]}. Amplitude over the last {ends.tail} positions divided by that "
        f"over the first quarter, lowest band first: {table}."
    )
