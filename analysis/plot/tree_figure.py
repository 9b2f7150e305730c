"""The eviction tree of a stretch of text: how long each token was kept, and which token absorbed it."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from analysis.plot import theme
from analysis.retention import record
from analysis.retention.tree import eviction_tree
from treekv.errors import TreeKVError

MOST_TOKENS = 256  # lines closer together cannot be distinguished
_MAX_LABELS = 48  # up to this many tokens have their text below the axis
_EVICTED, _KEPT = "#b0b7c3", "#0b3d91"


def tree(
    data: xr.Dataset,
    *,
    policy: str | None = None,
    layer: int | None = None,
    head: int | None = None,
    step: int | None = None,
    start: int | None = None,
    stop: int | None = None,
) -> go.Figure:
    """Draw the eviction tree of the tokens start ... stop - 1 in one head as a dendrogram.

    A vertical line spans the steps from the one that read a token (bottom) to the one that evicted it; there a
    horizontal line leads to the token that absorbed it. Dark lines reach the top: these tokens are still kept, and the
    line is wider the more tokens they represent. `layer` and `head` are the first ones if None; `start` is where the
    tree is about three levels deep, and `stop` at most 48 tokens later. The text alternative is in
    `layout.meta["alt"]`.

    Raises:
        TreeKVError: a policy, layer or head that is not in the record, or a stretch outside it or over 256 tokens.
    """
    layer = int(data["layer"].values[0]) if layer is None else layer
    head = int(data["head"].values[0]) if head is None else head
    one = record.select(data, policy, layer, head)
    name = str(data["policy"].values[0]) if policy is None else policy
    step = int(data.attrs["steps"]) - 1 if step is None else step
    forest = eviction_tree(data.sel(policy=[name], layer=[layer], head=[head]), step).isel(policy=0, layer=0, head=0)
    if start is None:
        start = shown_stretch(data, policy, layer, head, step)[0]
    stop = min(start + _MAX_LABELS, step + 1) if stop is None else stop
    if not 0 <= start < stop <= step + 1:
        raise TreeKVError(f"start and stop must lie within the {step + 1} tokens read, got {start} to {stop}")
    if stop - start > MOST_TOKENS:
        raise TreeKVError(
            f"{stop - start} tokens are too many to distinguish; choose a stretch of at most {MOST_TOKENS}"
        )

    evicted_at = one["evicted_at"].values
    parent, depth, size = (forest[field].values for field in ("parent", "depth", "size"))
    ended = (evicted_at >= 0) & (evicted_at <= step)
    tokens = [theme.shown(str(t), 24) for t in one["token"].values] if "token" in one.coords else [""] * len(evicted_at)
    positions = np.arange(start, stop)
    kept = int((~ended[start:stop]).sum())
    where = f"layer {layer}, KV head {head}, positions {start} to {stop - 1}, after {step + 1:,} tokens"
    figure = theme.figure(
        f"The tree of the policy \u201c{theme.shown(name)}\u201d",
        f"{where} · a horizontal line leads to the token that absorbed",
        f"Dendrogram of {where}: of {stop - start} tokens {kept} are still kept; the largest of them represents "
        f"{int(size[start:stop].max())} tokens, and the deepest absorbed token is {int(depth[start:stop].max())} "
        "absorptions below its root.",
        height=620,
    )
    lines: dict[tuple[str, float], tuple[list, list]] = {}
    for position in positions:
        key = (_EVICTED, 1.2) if ended[position] else (_KEPT, 1.5 + 1.2 * float(np.log2(size[position])))
        xs, ys = lines.setdefault(key, ([], []))
        end = evicted_at[position] if ended[position] else step
        to = parent[position] if ended[position] and start <= parent[position] < stop else position
        xs += [position, position, to, None]
        ys += [position, end, end, None]
    for (colour, width), (xs, ys) in sorted(lines.items()):
        figure.add_scatter(
            x=xs, y=ys, mode="lines", line={"color": colour, "width": width}, hoverinfo="skip", showlegend=False
        )
    top = step if kept else int(evicted_at[start:stop].max())
    _mark_ends(figure, positions, evicted_at, ended, parent, depth, size, tokens, step)
    if stop - start <= _MAX_LABELS:
        ticks = [f"{tokens[position].strip() or '␣'}" for position in positions]
        figure.update_xaxes(tickvals=positions.tolist(), ticktext=ticks, tickangle=-60)
    figure.update_xaxes(
        title={"text": "token, by its position in the text", "standoff": 14},
        showgrid=False,
        range=[start - 1, stop],
        automargin=True,
    )
    figure.update_yaxes(
        title="step (tokens processed)", range=[start - 0.03 * (top - start), top + 0.05 * (top - start)]
    )
    figure.update_layout(legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1, "yanchor": "bottom"})
    return figure


def shown_stretch(
    data: xr.Dataset, policy: str | None, layer: int | None, head: int | None, step: int
) -> tuple[int, int]:
    """The stretch that `tree` draws where none is asked for: start and stop."""
    layer = int(data["layer"].values[0]) if layer is None else layer
    head = int(data["head"].values[0]) if head is None else head
    kept = record.kept_mask(record.select(data, policy, layer, head), step)
    start = max(step + 1 - 2 * int(kept.sum()), 0)
    return start, min(start + _MAX_LABELS, step + 1)


def _mark_ends(
    figure: go.Figure,
    positions: np.ndarray,
    evicted_at: np.ndarray,
    ended: np.ndarray,
    parent: np.ndarray,
    depth: np.ndarray,
    size: np.ndarray,
    tokens: list[str],
    step: int,
) -> None:
    """Mark where each token was evicted or is still kept, with details in the hover text."""
    for wanted, name, marker in (
        (True, "evicted", {"color": _EVICTED, "size": 6, "symbol": "circle"}),
        (False, "still kept", {"color": _KEPT, "size": 9, "symbol": "diamond"}),
    ):
        picked = [int(position) for position in positions if ended[position] == wanted]
        details = []
        for position in picked:
            detail = f"{tokens[position]} · position {position}, represents {size[position]} tokens"
            if wanted:
                detail += f"<br>evicted at step {evicted_at[position]}"
                if parent[position] >= 0:
                    detail += f", absorbed by {tokens[parent[position]]} (position {parent[position]})"
                    detail += f"<br>{depth[position]} absorptions below its root"
                else:
                    detail += " without a comparison"
            details.append(detail)
        figure.add_scatter(
            x=picked,
            y=[int(evicted_at[position]) if wanted else step for position in picked],
            mode="markers",
            name=name,
            marker=marker,
            text=details,
            hovertemplate="%{text}<extra></extra>",
        )
