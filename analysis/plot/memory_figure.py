"""The bytes of keys and values of caches as the context grows."""

from __future__ import annotations

import plotly.graph_objects as go
import xarray as xr

from analysis.plot import theme
from analysis.plot.policy_colours import colours
from analysis.units import format_bytes
from treekv.errors import TreeKVError


def memory(data: xr.DataArray, *, context: int | None = None) -> go.Figure:
    """Draw `analysis.cache_bytes_by_context`: bytes (y) against the length of the context (x).

    One line for each setting, both axes logarithmic. `context` marks one of the lengths; the text alternative in
    `layout.meta["alt"]` gives the bytes there (at the longest if None). Raises TreeKVError for a context that does not
    exist.
    """
    contexts = [int(length) for length in data["context"].values]
    if context is not None and context not in contexts:
        raise TreeKVError(f"there is no context {context}; choose one of {', '.join(map(str, contexts))}")
    reported = contexts[-1] if context is None else context
    names = [str(name) for name in data["policy"].values]
    rows = data.attrs["batch"]
    words = f"{data.attrs['layers']} layers, {rows} {'row' if rows == 1 else 'rows'}, {data.attrs['dtype']}"
    values = "; ".join(f"{name} {format_bytes(int(data.sel(policy=name, context=reported)))}" for name in names)
    figure = theme.figure(
        "Memory for keys and values",
        words,
        f"Line chart of bytes of keys and values against the length of the context, {contexts[0]:,} to "
        f"{contexts[-1]:,} tokens, {words}; at {reported:,} tokens: {values}.",
        height=440,
    )
    # Lines of equal caches coincide; the wider ones are drawn first and stay visible on both sides.
    for number, (name, colour) in enumerate(zip(names, colours(names), strict=True)):
        row = data.sel(policy=name).values
        shown = theme.shown(name)
        figure.add_scatter(
            x=contexts,
            y=row,
            mode="lines",
            name=shown,
            line={
                "color": colour,
                "width": 2 + 1.5 * (len(names) - 1 - number),
                "dash": theme.dash(number),
            },
            customdata=[format_bytes(int(value)) for value in row],
            hovertemplate=f"{shown}, %{{x:,}} tokens: %{{customdata}}<extra></extra>",
        )
    if context is not None:
        figure.add_vline(x=context, line={"color": theme.QUIET, "width": 1, "dash": "dot"})
    figure.update_xaxes(
        title="length of the context (tokens)",
        type="log",
        tickvals=contexts,
        ticktext=[f"{length:,}" for length in contexts],
    )
    powers = range(3, 16)
    figure.update_yaxes(
        title="keys and values",
        title_standoff=12,
        automargin=True,
        type="log",
        tickvals=[10**power for power in powers],
        ticktext=[format_bytes(10**power).replace(".0", "") for power in powers],
    )
    figure.update_layout(showlegend=True)
    return figure
