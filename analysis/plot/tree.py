"""The tree of a stretch of text: how long each token lived, and who absorbed it."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from analysis.plot import theme
from analysis.retention import record as records
from analysis.retention.tree import eviction_tree as grow
from treekv.errors import TreeKVError

MOST_TOKENS = 256  # lines closer together than this cannot be told apart
_WORDS = 48  # up to so many tokens have their text under the axis
_GONE, _KEPT = "#b0b7c3", "#0b3d91"


def tree(
    retention: xr.Dataset,
    policy: str | None = None,
    layer: int | None = None,
    head: int | None = None,
    start: int | None = None,
    stop: int | None = None,
    step: int | None = None,
) -> go.Figure:
    """Draw the tree of tokens start ... stop - 1 in one head as a dendrogram.

    A vertical line is the life of a token, from the step in which it was read (bottom) to the one in which it was
    evicted; there a horizontal line leads to the token that absorbed it. Dark lines reach the top: these tokens are
    still held, the wider the more tokens they stand for. `layer` and `head` are the first ones when None, `start` is
    where the tree is about three levels deep and `stop` at most 48 tokens on. The text alternative is in
    `layout.meta["alt"]`.

    Raises:
        TreeKVError: a policy, layer or head that is not in the record, or a stretch outside it or over 256 tokens.
    """
    layer = int(retention["layer"].values[0]) if layer is None else layer
    head = int(retention["head"].values[0]) if head is None else head
    one = records.select(retention, policy, layer, head)
    name = str(retention["policy"].values[0]) if policy is None else policy
    step = int(retention.attrs["steps"]) - 1 if step is None else step
    forest = grow(retention.sel(policy=[name], layer=[layer], head=[head]), step).isel(policy=0, layer=0, head=0)
    if start is None:
        start = max(step + 1 - 2 * int(records.kept_mask(one, step).sum()), 0)
    stop = min(start + _WORDS, step + 1) if stop is None else stop
    if not 0 <= start < stop <= step + 1:
        raise TreeKVError(f"start and stop must lie within the {step + 1} tokens read, got {start} to {stop}")
    if stop - start > MOST_TOKENS:
        raise TreeKVError(
            f"{stop - start} tokens are too many to tell apart; choose a stretch of at most {MOST_TOKENS}"
        )

    gone = one["evicted_at"].values
    parent, depth, size = (forest[field].values for field in ("parent", "depth", "size"))
    ended = (gone >= 0) & (gone <= step)
    tokens = [theme.shown(str(t), 24) for t in one["token"].values] if "token" in one.coords else [""] * len(gone)
    positions = np.arange(start, stop)
    kept = int((~ended[start:stop]).sum())
    where = f"layer {layer}, KV head {head}, positions {start} to {stop - 1}, after {step + 1:,} tokens"
    figure = theme.figure(
        f"The tree of the policy \u201c{theme.shown(name)}\u201d",
        f"{where} · a horizontal line leads to the token that absorbed",
        f"Dendrogram of {where}: of {stop - start} tokens {kept} are still held; the largest of them stands for "
        f"{int(size[start:stop].max())} tokens, and the deepest absorbed token is {int(depth[start:stop].max())} "
        "absorptions below its root.",
        height=620,
    )
    lives: dict[tuple[str, float], tuple[list, list]] = {}
    for position in positions:
        key = (_GONE, 1.2) if ended[position] else (_KEPT, 1.5 + 1.2 * float(np.log2(size[position])))
        xs, ys = lives.setdefault(key, ([], []))
        end = gone[position] if ended[position] else step
        to = parent[position] if ended[position] and start <= parent[position] < stop else position
        xs += [position, position, to, None]
        ys += [position, end, end, None]
    for (colour, width), (xs, ys) in sorted(lives.items()):
        figure.add_scatter(
            x=xs, y=ys, mode="lines", line={"color": colour, "width": width}, hoverinfo="skip", showlegend=False
        )
    top = step if kept else int(gone[start:stop].max())
    _mark_ends(figure, positions, gone, ended, parent, depth, size, tokens, step)
    if stop - start <= _WORDS:
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


def _mark_ends(
    figure: go.Figure,
    positions: np.ndarray,
    gone: np.ndarray,
    ended: np.ndarray,
    parent: np.ndarray,
    depth: np.ndarray,
    size: np.ndarray,
    tokens: list[str],
    step: int,
) -> None:
    """A mark where each life ends, with its story in the hover box."""
    for wanted, name, marker in (
        (True, "evicted", {"color": _GONE, "size": 6, "symbol": "circle"}),
        (False, "still held", {"color": _KEPT, "size": 9, "symbol": "diamond"}),
    ):
        picked = [int(position) for position in positions if ended[position] == wanted]
        stories = []
        for position in picked:
            story = f"{tokens[position]} · position {position}, stands for {size[position]}"
            if wanted:
                story += f"<br>evicted at step {gone[position]}"
                if parent[position] >= 0:
                    story += f", absorbed by {tokens[parent[position]]} (position {parent[position]})"
                    story += f"<br>{depth[position]} absorptions below its root"
                else:
                    story += " without a comparison"
            stories.append(story)
        figure.add_scatter(
            x=picked,
            y=[int(gone[position]) if wanted else step for position in picked],
            mode="markers",
            name=name,
            marker=marker,
            text=stories,
            hovertemplate="%{text}<extra></extra>",
        )
