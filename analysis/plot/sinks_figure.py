"""How much the first tokens contribute, compared with all others."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from analysis.plot import theme
from treekv.errors import TreeKVError


def sinks(data: xr.Dataset, *, layer: int | None = None, head: int | None = None) -> go.Figure:
    """Draw the amplitude of each sink token of `analysis.spectrum`, and for scale that of the strongest band elsewhere.

    Averaged over layers and heads unless one is selected; the amplitude axis is logarithmic. The line is the largest of
    the bands' mean amplitudes over all other positions. The text alternative is in `layout.meta["alt"]`. Raises
    TreeKVError for a layer or head that does not exist, or a spectrum without sinks.
    """
    picked, words = theme.chosen(data, layer, head)
    if not picked.sizes.get("sink"):
        raise TreeKVError("the spectrum has no sinks; compute it with a sink_count of at least 1")
    values = picked["sink_amplitude"].mean(("layer", "head")).values
    positions = [str(position) for position in picked["sink"].values]
    bands = picked["amplitude"].mean(("layer", "head", "position"))
    strongest = str(bands["band"].values[int(np.argmax(bands.values))])
    rest = float(bands.max())
    table = ", ".join(f"{position}: {value:.3g}" for position, value in zip(positions, values, strict=True))
    figure = theme.figure(
        "The first tokens, apart from the rest",
        f"{theme.source(picked)} · {words}",
        f"Bar chart on a logarithmic scale, {words}: amplitude of the first {len(positions)} tokens by position, "
        f"{table}; for scale, band {strongest} over all other positions has {rest:.3g} on average.",
        height=300,
    )
    figure.add_bar(
        x=values.astype(np.float32),
        y=positions,
        orientation="h",
        marker={"color": "#31688e"},
        hovertemplate="position %{y}: %{x:.3~g}<extra></extra>",
        showlegend=False,
    )
    figure.add_vline(
        x=rest, line={"color": "#a06500", "width": 2, "dash": "dash"}, annotation_text=f"{strongest} elsewhere"
    )
    shown = np.append(values[values > 0], rest if rest > 0 else 1.0)
    low, high = np.log10(shown.min()), np.log10(shown.max())
    figure.update_xaxes(
        title="amplitude (units of the values)",
        type="log",
        exponentformat="power",
        dtick=1,
        range=[float(low) - 0.5, float(high) + 0.5],
    )
    figure.update_yaxes(title="position", type="category", autorange="reversed", showgrid=False)
    return figure
