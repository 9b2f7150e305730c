"""The paper's figure: amplitude of each wavelet band against the position in the text."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from analysis.plot import theme


def spectrum(dataset: xr.Dataset, layer: int | None = None, head: int | None = None) -> go.Figure:
    """Draw `analysis.spectrum`'s amplitude, one line a band, on a logarithmic scale.

    Averaged over layers and heads unless one is chosen; positions are pooled by their mean to at most 256
    points a line. The text alternative is in `layout.meta["alt"]`. Raises TreeKVError for a layer or head that
    is not there.
    """
    picked, words = theme.chosen(dataset, layer, head)
    amplitude = picked["amplitude"].mean(("layer", "head")).values
    position = picked["position"].values
    edges = theme.pool_edges(len(position), 256)
    lines = theme.pool(amplitude, edges, "mean")
    x = (position[edges[:-1]] + position[edges[1:] - 1]) / 2
    tokens = theme.pooled_tokens(picked, edges)
    bands = [str(band) for band in picked["band"].values]
    levels = picked["level"].values

    figure = theme.figure(
        "Token contributions by frequency band",
        f"{dataset.attrs.get('model', '')} · {dataset.attrs.get('wavelet', '')} wavelet · {words} · "
        f"first {dataset.attrs.get('sinks', 0)} tokens left out",
        _alt(bands, lines, x, words),
        height=520,
    )
    colours = theme.ordered_colours(len(bands))
    for number in range(
        len(bands) - 1, -1, -1
    ):  # the highest band on top of the legend, as it is at the right
        figure.add_scatter(
            x=x.astype(np.float32),
            y=np.where(lines[number] > 0, lines[number], np.nan).astype(np.float32),
            mode="lines",
            name=_label(bands[number], int(levels[number])),
            line={"color": colours[number], "width": 2 if number in (0, len(bands) - 1) else 1.4},
            text=tokens,
            hovertemplate=f"{bands[number]} at %{{x:.0f}}: %{{y:.3~g}}<br>%{{text}}<extra></extra>",
        )
    figure.update_xaxes(title="position in the text (tokens)")
    figure.update_yaxes(
        title="mean |component| (units of the values)", type="log", exponentformat="power", dtick=1
    )
    figure.update_layout(legend={"title": "band (tokens per half wave)", "traceorder": "normal"})
    return figure


def _label(band: str, level: int) -> str:
    return f"{band}  (over {2**level})" if band.startswith("A") else f"{band}  ({2 ** (level - 1)})"


def _alt(bands: list[str], lines: np.ndarray, x: np.ndarray, words: str) -> str:
    quarter = max(1, len(x) // 4)
    last = max(1, round(64 / (x[-1] - x[0]) * len(x))) if len(x) > 1 else 1
    with np.errstate(divide="ignore", invalid="ignore"):
        growth = lines[:, -last:].mean(-1) / lines[:, :quarter].mean(-1)
    table = ", ".join(f"{band} {ratio:.1f}" for band, ratio in zip(bands, growth, strict=True))
    return (
        f"Line chart on a logarithmic scale, {words}: mean amplitude of {len(bands)} wavelet bands from "
        f"position {x[0]:.0f} to {x[-1]:.0f}. Amplitude over the last 64 positions divided by that over the first "
        f"quarter, lowest band first: {table}."
    )
