"""What caches hold, in bytes, as the context grows."""

from __future__ import annotations

import plotly.graph_objects as go
import xarray as xr

from analysis.plot import theme
from treekv.errors import TreeKVError

_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_UNITS = ("B", "kB", "MB", "GB", "TB")


def memory(found: xr.DataArray, at: int | None = None) -> go.Figure:
    """Draw what `analysis.cache_bytes_by_context` returns: bytes (y) against the length of the context (x).

    One line a setting, both axes logarithmic; `at` marks one of the contexts, which the text alternative in
    `layout.meta["alt"]` then speaks of (the longest when None). Raises TreeKVError for a context that is not there.
    """
    contexts = [int(context) for context in found["context"].values]
    if at is not None and at not in contexts:
        raise TreeKVError(f"context {at} is not there; choose one of {', '.join(map(str, contexts))}")
    there = contexts[-1] if at is None else at
    names = [str(name) for name in found["policy"].values]
    rows = found.attrs["batch"]
    words = f"{found.attrs['layers']} layers, {rows} {'row' if rows == 1 else 'rows'}, {found.attrs['dtype']}"
    values = "; ".join(f"{name} {_size(int(found.sel(policy=name, context=there)))}" for name in names)
    figure = theme.figure(
        "Memory for keys and values",
        words,
        f"Line chart of bytes of keys and values against the length of the context, {contexts[0]:,} to "
        f"{contexts[-1]:,} tokens, {words}; at {there:,} tokens: {values}.",
        height=440,
    )
    # Caches of one size lie on one line: the wider ones, drawn first, then show on both sides of the narrower.
    for number, (name, colour) in enumerate(zip(names, theme.ordered_colours(len(names)), strict=True)):
        row = found.sel(policy=name).values
        shown = theme.shown(name)
        figure.add_scatter(
            x=contexts,
            y=row,
            mode="lines",
            name=shown,
            line={
                "color": colour,
                "width": 2 + 1.5 * (len(names) - 1 - number),
                "dash": _DASHES[number % len(_DASHES)],
            },
            customdata=[_size(int(value)) for value in row],
            hovertemplate=f"{shown}, %{{x:,}} tokens: %{{customdata}}<extra></extra>",
        )
    if at is not None:
        figure.add_vline(x=at, line={"color": "#5b6372", "width": 1, "dash": "dot"})
    figure.update_xaxes(
        title="length of the context (tokens)",
        type="log",
        tickvals=contexts,
        ticktext=[f"{context:,}" for context in contexts],
    )
    powers = range(3, 16)
    figure.update_yaxes(
        title="keys and values",
        title_standoff=12,
        automargin=True,
        type="log",
        tickvals=[10**power for power in powers],
        ticktext=[_size(10**power).replace(".0", "") for power in powers],
    )
    figure.update_layout(showlegend=True)
    return figure


def _size(number: float) -> str:
    """Bytes in powers of ten: 1.2 MB."""
    for unit in _UNITS[:-1]:
        if number < 1000:
            return f"{number:.0f} B" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} {_UNITS[-1]}"
