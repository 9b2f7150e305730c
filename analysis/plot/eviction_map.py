"""What a policy keeps: step of the generation against position in the text."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from analysis import retention as records
from analysis.plot import theme


def eviction_map(
    retention: xr.Dataset, policy: str | None = None, layer: int | None = None, head: int | None = None
) -> go.Figure:
    """Draw which positions (x) are held after which step (y, downwards), as a share of layers and heads.

    One layer and KV head show plain kept and evicted; left open (None) they are averaged. Long records are
    pooled by their mean to at most 512 cells a side, in whole per cent. `policy` may be None when the record
    has one policy. The text alternative is in `layout.meta["alt"]`. Raises TreeKVError, listing what there
    is, for a policy, layer or head that is not in the record.
    """
    cells = records.retention_map(retention, policy, layer, head, theme.MAX_CELLS)
    policy = str(retention["policy"].values[0]) if policy is None else policy
    _, words = theme.chosen(retention, layer, head)
    share = cells.values
    percent = np.rint(100 * np.nan_to_num(share)).astype(np.uint8)
    step_size, position_size = cells.attrs["step_size"], cells.attrs["position_size"]
    steps = int(retention.attrs["steps"])

    figure = theme.figure(
        f"Tokens kept by the policy \u201c{theme.shown(policy)}\u201d",
        f"{words.replace('head', 'KV head')} · {steps:,} tokens",
        _alt(retention, policy, layer, head, words),
        height=640,
    )
    figure.add_heatmap(
        x=cells["position"].values + (position_size - 1) / 2,
        y=cells["step"].values + (step_size - 1) / 2,
        z=percent,
        zmin=0,
        zmax=100,
        colorscale="Cividis",
        colorbar=_colorbar(single=step_size == position_size == 1 and layer is not None and head is not None),
        hovertemplate="after step %{y:.0f}, position %{x:.0f}: kept %{z} %<extra></extra>",
    )
    _hide_future(figure, steps)
    _mark_arrivals(figure, retention, position_size)
    figure.update_xaxes(title=theme.position_title(position_size, "mean"), showgrid=False, range=[-0.5, steps - 0.5])
    figure.update_yaxes(title="step: tokens processed so far, downwards", showgrid=False, range=[steps - 0.5, -0.5])
    return figure


def _colorbar(single: bool) -> dict[str, object]:
    bar: dict[str, object] = {"thickness": 14, "outlinewidth": 0}
    if single:
        return bar | {"tickvals": [0, 100], "ticktext": ["evicted", "kept"]}
    shares = [0, 25, 50, 75, 100]
    return bar | {
        "title": {"text": "kept", "side": "top"},
        "tickvals": shares,
        "ticktext": [f"{share} %" for share in shares],
    }


def _hide_future(figure: go.Figure, steps: int) -> None:
    """Whole per cents have no room for "not read yet", so the triangle above the diagonal is covered."""
    near, far, grey = -0.5, steps - 0.5, "#f2f3f5"
    figure.add_scatter(
        x=[near, far, far, near],
        y=[near, near, far, near],
        mode="lines",
        line={"color": grey, "width": 2},
        fill="toself",
        fillcolor=grey,
        hoveron="fills",
        hoverinfo="text",
        text="not read yet",
        showlegend=False,
    )
    figure.add_annotation(x=0.72 * steps, y=0.28 * steps, text="not read yet", showarrow=False)


def _mark_arrivals(figure: go.Figure, retention: xr.Dataset, size: int) -> None:
    """The token's text in the hover box where it enters; a text in every cell would be megabytes."""
    if "token" not in retention.coords:
        return
    position = retention["position"].values
    borders = np.append(np.arange(0, len(position), size), len(position))
    figure.add_scatter(
        x=position[borders[:-1]],
        y=position[borders[:-1]],
        mode="markers",
        marker={"opacity": 0, "size": 9},
        text=theme.pooled_tokens(retention, borders),
        hovertemplate="position %{x} enters: %{text}<extra></extra>",
        showlegend=False,
    )


def _alt(retention: xr.Dataset, policy: str, layer: int | None, head: int | None, words: str) -> str:
    last = int(retention.attrs["steps"]) - 1
    chosen = {name: value for name, value in (("layer", layer), ("head", head)) if value is not None}
    share = records.held(retention, last).sel({"policy": policy, **chosen})
    quarters = np.array_split(share.transpose(..., "position").values.reshape(-1, share.sizes["position"]), 4, 1)
    table = ", ".join(f"{100 * quarter.mean():.0f} %" for quarter in quarters)
    return (
        f"Map of step against position for the policy {policy}, {words}: the share of layers and KV heads "
        f"that hold a token. After the last of {last + 1} steps the four quarters of the text are held to "
        f"{table}."
    )
