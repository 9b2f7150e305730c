"""The paper's figure 2: amplitude of each detail band against the position in the window."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from analysis import binning
from analysis.plot import theme
from analysis.plot.spectrum_figure import band_label

_POINTS = 128  # per line
_STRETCH = 64  # positions at either end of the middle whose means the text alternative compares


def paper_bands(data: xr.Dataset) -> go.Figure:
    """Draw the detail bands of `analysis.paper.figure2`, one line a band, D1 the finest.

    The axis of amplitude is linear, as in the paper, and fits the middle: the margins, which the paper leaves out and
    a cache protects anyway, are drawn under grey. Positions are pooled by their mean to at most 128 points per line;
    shaded is the mean of their 95 % intervals over samples. The text alternative, with the means of the first and the
    last 64 positions between the margins, is in `layout.meta["alt"]`.
    """
    details = data.isel(band=[i for i, band in enumerate(data["band"].values) if str(band).startswith("D")])
    bands = [str(band) for band in details["band"].values]
    length, margin = data.sizes["position"], int(data.attrs["margin"])
    edges = binning.edges(length, _POINTS)
    x = ((edges[:-1] + edges[1:] - 1) / 2).astype(np.float32)
    line, low, high = (binning.mean(details[f"amplitude{end}"].values, edges) for end in ("", "_low", "_high"))
    samples = int(data.attrs["samples"])
    texts = int(data.attrs["texts"])
    where = f"{samples:,} window{'s' * (samples != 1)} of {texts} text{'s' * (texts != 1)}"
    shaded = " · shaded: 95 % interval over windows" if samples > 1 else ""
    figure = theme.figure(
        "What the last token takes, by frequency band",
        f"{theme.shown(str(data.attrs['model']))} · {where} · each of {length} tokens · mean over layers, "
        f"heads and channels{shaded}",
        _alt(details, margin, where),
        height=450,
    )
    # Lines break where the grey begins: beyond it amplitude jumps.
    breaks = np.searchsorted(x, (margin - 0.5, length - margin - 0.5))
    colours = theme.ordered_colours(len(bands))
    for number in range(len(bands) - 1, -1, -1):  # the finest band heads the legend
        band, colour = bands[number], colours[number]
        if samples > 1:
            below, above = (end[number].astype(np.float32) for end in (low, high))
            theme.shade(figure, x, below, above, colour, band)
        figure.add_scatter(
            x=np.insert(x, breaks, np.nan),
            y=np.insert(line[number].astype(np.float32), breaks, np.nan),
            mode="lines",
            name=band_label(band, int(details["level"].values[number])),
            legendgroup=band,
            line={"color": colour, "width": 2, "dash": theme.dash(len(bands) - 1 - number)},
            hovertemplate=f"{band} around %{{x:.0f}}: %{{y:.3~g}}<extra></extra>",
        )
    for first, last in ((-0.5, margin - 0.5), (length - margin - 0.5, length - 0.5)):
        figure.add_vrect(x0=first, x1=last, fillcolor=theme.GRID, opacity=0.75, line_width=0, layer="above")
    middle = (x >= margin) & (x < length - margin)
    top = np.nanmax(np.where(np.isnan(high), line, high)[:, middle])
    figure.update_xaxes(
        title=theme.position_title(int(edges[1] - edges[0]), "mean").replace("in the text", "in the window"),
        range=[-0.5, length - 0.5],
    )
    figure.update_yaxes(title="amplitude (units of the values)", range=[0, 1.08 * float(top)], exponentformat="power")
    title = "band: tokens compared · grey: left out by the paper, protected in a cache"
    theme.legend_below(figure, title, len(bands))
    return figure


def _alt(details: xr.Dataset, margin: int, where: str) -> str:
    length = details.sizes["position"]
    stretch = min(_STRETCH, (length - 2 * margin) // 2)
    words = []
    for number in range(details.sizes["band"] - 1, -1, -1):
        amplitude = details["amplitude"].values[number]
        start = amplitude[margin : margin + stretch].mean()
        end = amplitude[length - margin - stretch : length - margin].mean()
        words.append(f"{details['band'].values[number]} {start:.3g} and {end:.3g}, {end / start:.2f} times")
    return (
        f"Mean amplitude of each band at positions {margin} to {margin + stretch - 1} and at "
        f"{length - margin - stretch} to {length - margin - 1}, {where}: {'; '.join(words)}."
    )
