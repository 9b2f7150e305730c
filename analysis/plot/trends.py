"""Does amplitude grow, band by band: three numbers with their intervals and what chance alone would give."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from analysis.plot import theme

# Variable, title, axis, no trend
_PANELS = (
    ("growth", "growth", "end over start (log scale)", 1.0),
    ("slope", "Theil-Sen slope", "log per 1,000 tokens", 0.0),
    ("rank_correlation", "rank correlation", "Spearman", 0.0),
)
_LOOKS = {
    "holds": {"symbol": "circle", "color": "#00224e"},
    "not decided": {"symbol": "circle-open", "color": "#5b6372"},
    "fails": {"symbol": "x", "color": "#a06500"},
}
_NULL = "#c9ced6"


def trends(found: xr.Dataset) -> go.Figure:
    """Draw what `analysis.trends` returns: growth, slope and rank correlation (x) of each band (y, fine above).

    Whiskers are 95 % bootstrap intervals; grey reaches from no trend to what 95 % of shuffled orders stay below. The
    mark says whether claim (i) holds in the band, both verdicts stand in the second line. The text alternative is in
    `layout.meta["alt"]`.
    """
    bands = [str(band) for band in found["band"].values]
    verdicts = found["claim_i"].values.tolist()
    words = f"claim (i) {found.attrs['claim_i']}, claim (ii) {found.attrs['claim_ii']}"
    figure = theme.grid(
        "Does amplitude grow towards the end?",
        f"{theme.source(found)} · {words}",
        _alt(found, bands, verdicts, words),
        [title for _, title, _, _ in _PANELS],
        3,
        260 + 26 * len(bands),
        shared=False,
    )
    for column, (name, title, axis, none) in enumerate(_PANELS, start=1):
        value, low, high = (found[name + end].values for end in ("", "_low", "_high"))
        limit = found[name + "_null"].values
        figure.add_bar(
            x=np.where(np.isfinite(limit), limit - none, np.nan),
            base=none,
            y=bands,
            orientation="h",
            name="chance (95 % of shuffled orders)",
            marker={"color": _NULL},
            width=0.66,
            customdata=limit,
            hovertemplate="%{y}: 95 % of shuffled orders stay below %{customdata:.3~g}<extra></extra>",
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
        figure.add_vline(x=none, line={"color": "#5b6372", "width": 1}, row=1, col=column)
        figure.update_xaxes(title=axis, row=1, col=column)
    figure.update_xaxes(type="log", dtick=1, row=1, col=1)
    figure.update_xaxes(range=[-1.05, 1.05], row=1, col=3)
    figure.update_yaxes(type="category", categoryorder="array", categoryarray=bands, showgrid=False)
    figure.update_layout(legend={"orientation": "h", "x": 0, "y": -0.25, "yanchor": "top"}, bargap=0.3)
    return figure


def _alt(found: xr.Dataset, bands: list[str], verdicts: list[str], words: str) -> str:
    rows = []
    for i, (band, verdict) in enumerate(zip(bands, verdicts, strict=True)):
        value, low, high = (float(found["growth" + end].values[i]) for end in ("", "_low", "_high"))
        interval = "" if np.isnan(low) else f" ({low:.1f} to {high:.1f})"
        rank = float(found["rank_correlation"].values[i])
        rows.append(f"{band} grows by {value:.1f}{interval}, rank correlation {rank:+.2f}, {verdict}")
    return (
        f"Three panels, growth, slope and rank correlation of {len(bands)} bands with 95 % intervals; {words}. Lowest "
        f"band first: {'; '.join(rows)}."
    )
