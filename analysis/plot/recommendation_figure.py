"""Why settings were recommended: the simulated error of every candidate."""

from __future__ import annotations

import plotly.graph_objects as go
import xarray as xr

from analysis.plot import theme

_TITLES = {
    "size": "cache size",
    "baseline": "start",
    "sinks": "sinks",
    "recent": "recent and tree",
    "scope": "neighbours",
    "layers": "budgets by layer",
    "block": "prompt blocks",
}
_TRIED, _CHOSEN = "#9aa3b2", "#0b5394"


def recommendation(data: xr.Dataset) -> go.Figure:
    """Draw the candidates (y, in the order tried, by question) by their simulated output error (x, per cent).

    `data` is `reasons` of `analysis.recommend`. Chosen candidates are filled diamonds, the others open circles. The
    text alternative is in `layout.meta["alt"]`.
    """
    rows = [
        {name: data[name].values[i].item() for name in ("question", "setting", "cache_size", "error", "mass", "chosen")}
        for i in range(data.sizes["candidate"])
    ]
    labels = [f"{_TITLES[row['question']]}: {theme.shown(row['setting'])}" for row in rows]
    chosen = [row["question"] for row in rows if row["chosen"]]
    alt = "Simulated relative error of the attention output of each setting tried: " + "; ".join(
        f"{label} {100 * row['error']:.1f} %{', chosen' if row['chosen'] else ''}"
        for label, row in zip(labels, rows, strict=True)
    )
    figure = theme.figure(
        "Settings tried on the captured text",
        f"{theme.shown(str(data.attrs.get('model', '')))} · {data.attrs.get('tokens', 0):,} tokens · lower is "
        f"better · {len(chosen)} of {len(rows)} chosen",
        alt,
        height=150 + 24 * len(rows),
    )
    for wanted, name, marker in (
        (False, "tried", {"symbol": "circle-open", "color": _TRIED, "size": 10, "line": {"width": 2}}),
        (True, "chosen", {"symbol": "diamond", "color": _CHOSEN, "size": 12}),
    ):
        picked = [i for i, row in enumerate(rows) if row["chosen"] == wanted]
        figure.add_scatter(
            x=[100 * rows[i]["error"] for i in picked],
            y=[labels[i] for i in picked],
            mode="markers",
            name=name,
            marker=marker,
            customdata=[[100 * rows[i]["mass"], rows[i]["cache_size"]] for i in picked],
            hovertemplate=(
                "%{y}<br>output error %{x:.2f} %, attention retained %{customdata[0]:.1f} %, "
                "%{customdata[1]:,} tokens<extra></extra>"
            ),
        )
    projected = " after the output projection" if data.attrs.get("projected") else ""
    figure.update_xaxes(title=f"mean relative error of the attention output{projected} (%)", rangemode="tozero")
    figure.update_yaxes(categoryorder="array", categoryarray=labels[::-1], title=None, automargin=True)
    figure.update_layout(legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1, "yanchor": "bottom"})
    return figure
