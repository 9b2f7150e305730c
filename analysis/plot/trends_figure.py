"""Whether the amplitude of each band grows: three statistics with intervals and their null distributions."""

from __future__ import annotations

import textwrap
from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from analysis.plot import theme
from analysis.wavelets.trends import PAPER, protocol_of

# Variable, title, axis, no trend
_GROWTH = ("growth", "growth", "end over start (log scale)", 1.0)
_RANK = ("rank_correlation", "rank correlation", "Spearman", 0.0)
_PANELS = {
    "paper": (("rise", "rise", "end less start", 0.0), _GROWTH, _RANK),
    "to the last token": (_GROWTH, ("slope", "Theil-Sen slope", "log per 1,000 tokens", 0.0), _RANK),
}
_AXIS_WIDTH = 16  # characters of the title of an axis
_LOOKS = {
    "holds": {"symbol": "circle", "color": "#00224e"},
    "not decided": {"symbol": "circle-open", "color": theme.QUIET},
    "fails": {"symbol": "x", "color": "#a06500"},
}
_NULL = "#c9ced6"


def trends(data: xr.Dataset) -> go.Figure:
    """Draw `analysis.trends`: three statistics (x) of each band (y, finest at the top).

    They are rise, growth and rank correlation in the paper's protocol, and growth, slope and rank correlation to the
    last token. Whiskers are 95 % intervals; grey extends from no trend to the 95th percentile of chance. The marker
    shows whether claim (i) holds in the band; the second line gives the verdict on both claims. The text alternative is
    in `layout.meta["alt"]`.
    """
    bands = [str(band) for band in data["band"].values]
    verdicts = data["claim_i"].values.tolist()
    protocol = protocol_of(data)
    panels = _PANELS[protocol]
    words = shown = f"claim (i) {data.attrs['claim_i']}, claim (ii) {data.attrs['claim_ii']}"
    if protocol == PAPER:
        parts = f"rise: {data.attrs['claim_ii_absolute']}, growth: {data.attrs['claim_ii_ratio']}"
        words, shown = f"{words} ({parts})", f"{shown} · of (ii), {parts}"  # lines part at the dots
    figure = theme.grid(
        "Does amplitude grow along the middle?" if protocol == PAPER else "Does amplitude grow to the last token?",
        f"{theme.source(data)} · {shown}",
        _alt(data, bands, verdicts, words, [title for _, title, _, _ in panels]),
        [title for _, title, _, _ in panels],
        3,
        320 + 26 * len(bands),
        shared=False,
    )
    for column, (name, title, axis, none) in enumerate(panels, start=1):
        value, low, high = (data[name + end].values for end in ("", "_low", "_high"))
        limit = data[name + "_null"].values
        figure.add_bar(
            x=np.where(np.isfinite(limit), limit - none, np.nan),
            base=none,
            y=bands,
            orientation="h",
            name="chance (95 %)",
            marker={"color": _NULL},
            width=0.66,
            customdata=limit,
            hovertemplate="%{y}: 95 % of chance stays below %{customdata:.3~g}<extra></extra>",
            legendgroup="chance",
            showlegend=column == 1,
            row=1,
            col=column,
        )
        for verdict, look in _LOOKS.items():
            picked = [i for i, word in enumerate(verdicts) if word == verdict]
            figure.add_scatter(
                x=value[picked],
                y=[bands[i] for i in picked],
                mode="markers",
                name=f"claim (i) {verdict}",
                marker=look | {"size": 9},
                error_x={
                    "array": np.nan_to_num(high - value)[picked],
                    "arrayminus": np.nan_to_num(value - low)[picked],
                    "color": look["color"],
                    "thickness": 1.6,
                    "width": 4,
                },
                customdata=np.stack((low, high), axis=1)[picked],
                hovertemplate=(
                    f"%{{y}}, {title}: %{{x:.3~g}} (%{{customdata[0]:.3~g}} to %{{customdata[1]:.3~g}})<extra></extra>"
                ),
                legendgroup=verdict,
                showlegend=column == 1 and bool(picked),
                row=1,
                col=column,
            )
        figure.add_vline(x=none, line={"color": theme.QUIET, "width": 1}, row=1, col=column)
        # In lines that fit below a panel of a narrow page.
        below = "<br>".join(textwrap.wrap(axis, _AXIS_WIDTH))
        ticks = _two_ticks(high) if name == "rise" else {}
        figure.update_xaxes(title=below, tickangle=0, nticks=3, **ticks, row=1, col=column)
    at = [name for name, _, _, _ in panels].index("growth") + 1
    grown = np.concatenate([data[f"growth{end}"].values for end in ("", "_low", "_high", "_null")])
    grown = grown[np.isfinite(grown) & (grown > 0)]
    ticks = theme.log_ticks(min(float(grown.min()), 1.0), float(grown.max())) if grown.size else {}
    figure.update_xaxes(type="log", **ticks, row=1, col=at)
    figure.update_xaxes(exponentformat="power", nticks=4, row=1, col=1 if at > 1 else 2)
    figure.update_xaxes(range=[-1.05, 1.05], row=1, col=3)
    figure.update_yaxes(type="category", categoryorder="array", categoryarray=bands, showgrid=False)
    # Below the titles of the axes, however high the figure is drawn.
    figure.update_layout(
        legend={"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom"},
        margin={"b": 120},
        bargap=0.3,
    )
    return figure


def _two_ticks(values: np.ndarray) -> dict[str, Any]:
    """Zero and one round number, which do not run into each other on a narrow page."""
    top = float(np.nanmax(values, initial=0.0))
    if not 0 < top < np.inf:
        return {}
    power = int(np.floor(np.log10(top)))
    step = max(step for step in (1, 2, 5) if step * 10.0**power <= top)
    return {"tickvals": [0, step * 10.0**power], "ticktext": ["0", f"{step}\u00d710<sup>{power}</sup>"]}


def _alt(data: xr.Dataset, bands: list[str], verdicts: list[str], words: str, panels: list[str]) -> str:
    rows = []
    for i, (band, verdict) in enumerate(zip(bands, verdicts, strict=True)):
        value, low, high = (float(data["growth" + end].values[i]) for end in ("", "_low", "_high"))
        interval = "" if np.isnan(low) else f" ({low:.1f} to {high:.1f})"
        rank = float(data["rank_correlation"].values[i])
        rows.append(f"{band} grows by {value:.1f}{interval}, rank correlation {rank:+.2f}, {verdict}")
    return (
        f"Three panels, {panels[0]}, {panels[1]} and {panels[2]} of {len(bands)} bands with 95 % intervals; {words}. "
        f"Lowest band first: {'; '.join(rows)}."
    )
