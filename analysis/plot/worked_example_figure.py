"""One step of the paper's figure 3: the cache, the two words that are compared, and the tree so far."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from analysis.paper.figure_3 import NO_WORD, Step
from analysis.plot import theme
from treekv.errors import TreeKVError

MOST_WORDS = 48  # more columns cannot be told apart on a narrow page
_STAYS, _GOES, _GONE = "#0b3d91", "#a06500", "#8a93a3"
_ROTATED = 7  # from so many boxes on their words stand upright
_HEIGHT, _BOTTOM = 570, 95


def worked_example(data: Sequence[Step], *, step: int | None = None) -> go.Figure:
    """Draw one step of `analysis.paper.figure3`, the last one if None; step 0 reads the first word.

    Above, the cache before a word goes, oldest word at the left, with the importances: the compared two are joined by a
    bracket, the one that goes is crossed out. Below, the tree: each word is a column, a horizontal line leads from a
    word to the one that won against it, and its height is the level of their contest. Columns that reach a diamond are
    still cached. The scales are the same for all steps. The text alternative is in `layout.meta["alt"]`.

    Raises:
        TreeKVError: no steps, more than 48 of them, or a step that is not among them.
    """
    if not data:
        raise TreeKVError("there are no steps to draw; give those of analysis.paper.figure3")
    if len(data) > MOST_WORDS:
        raise TreeKVError(
            f"{len(data)} words are too many to tell apart; give a sentence of at most {MOST_WORDS} words"
        )
    step = len(data) - 1 if step is None else step
    if not 0 <= step < len(data):
        raise TreeKVError(f"step {step} is outside the sentence; give 0 to {len(data) - 1}")
    now, last = data[step], data[-1]
    figure = theme.figure(
        f"Step {now.number} of {len(data)}: \u201c{theme.shown(now.words[-1], 24)}\u201d arrives",
        "the cache, oldest word first, and the tree of all contests so far",
        _alternative(now, len(data)),
        height=_HEIGHT,
    )
    figure.update_layout(
        margin={"l": 55, "r": 15, "t": 80, "b": _BOTTOM},
        xaxis2={"anchor": "y2"},
        yaxis2={"anchor": "x2", "domain": [0.6, 1]},
        yaxis={"domain": [0, 0.5]},
        showlegend=False,
    )
    _draw_cache(figure, now, max(len(each.held) for each in data))
    _draw_tree(figure, now, len(data), max(last.level))
    return figure


def _alternative(now: Step, words: int) -> str:
    held = ", ".join(f"{now.words[p]} ({n})" for p, n in zip(now.held, now.numbers(), strict=True))
    levels = ", ".join(f"{now.words[p]} {now.level[p]}" for p in now.kept)
    return (
        f"A row of cached words and a tree of contests, after {now.number} of {words} words. {now.in_words()} "
        f"In the cache, with importances: {held}. Levels of the words that stay: {levels}."
    )


def _draw_cache(figure: go.Figure, now: Step, places: int) -> None:
    """Boxes in the order of the ranks, on the axes x2 and y2; `places` is how many there are in a full cache."""
    upright = places >= _ROTATED
    numbers = now.numbers()
    for rank in range(places):
        position = now.held[rank] if rank < len(now.held) else None
        goes, stays = (position is not None and position == which for which in (now.loser, now.winner))
        colour, width, dash = theme.GRID, 1.5, "solid"
        if goes:
            colour, width, dash = _GOES, 3, "dash"
        elif stays:
            colour, width = _STAYS, 3
        elif position is not None:
            colour = theme.QUIET
        x, y = rank + 0.44, 1
        figure.add_scatter(
            x=[rank - 0.44, x, x, rank - 0.44, rank - 0.44],
            y=[0, 0, y, y, 0],
            mode="lines",
            fill="toself",
            fillcolor="white" if goes or position is None else "#f2f3f5",
            line={"color": colour, "width": width, "dash": dash},
            hoverinfo="skip",
            xaxis="x2",
            yaxis="y2",
        )
        if position is None:
            continue
        text = theme.shown(now.words[position], 9 if upright else 11)
        style = "<s>{}</s>" if goes else "<b>{}</b>" if stays else "{}"
        angle, ink = -90 if upright else 0, theme.INK if goes or stays else theme.QUIET
        _label(figure, rank, 0.5, style.format(text), theme.QUIET if goes else theme.INK, angle=angle)
        _label(figure, rank, -0.04, numbers[rank], ink, "top", size=12, angle=angle)
        said = [word for word, true in (("new", rank == len(now.held) - 1), ("goes", goes), ("stays", stays)) if true]
        _label(figure, rank, 1.04, "<br>".join(said), ink, "bottom", size=12, angle=angle)
    _draw_bracket(figure, now, -0.45 if upright else -0.33)
    _name_points(figure, now)
    figure.add_annotation(
        text="cache",
        x=0,
        xref="paper",
        xshift=-38,
        y=0.5,
        yref="y2",
        textangle=-90,
        showarrow=False,
        font={"color": theme.INK, "size": 14},
    )
    figure.update_layout(
        xaxis2={"visible": False, "range": [-0.6, places - 0.4], "fixedrange": True},
        yaxis2={"visible": False, "range": [-0.8, 1.5], "fixedrange": True},
    )


def _draw_bracket(figure: go.Figure, now: Step, top: float) -> None:
    if now.compared is None:
        return
    left, right = (now.held.index(position) for position in now.compared)
    figure.add_scatter(
        x=[left, left, right, right],
        y=[top, top - 0.06, top - 0.06, top],
        mode="lines",
        line={"color": theme.INK, "width": 2},
        hoverinfo="skip",
        xaxis="x2",
        yaxis="y2",
    )
    _label(figure, (left + right) / 2, top - 0.09, "compared", theme.INK, "top", size=12)


def _name_points(figure: go.Figure, now: Step) -> None:
    """The whole word and its importance when the mouse is over a box."""
    figure.add_scatter(
        x=list(range(len(now.held))),
        y=[0.5] * len(now.held),
        mode="markers",
        marker={"color": "rgba(0,0,0,0)", "size": 30},
        text=[
            f"{theme.shown(now.words[position])}<br>importance {number}"
            for position, number in zip(now.held, now.numbers(), strict=True)
        ],
        hovertemplate="%{text}<extra></extra>",
        xaxis="x2",
        yaxis="y2",
    )


def _label(
    figure: go.Figure,
    x: float,
    y: float,
    text: str,
    colour: str,
    anchor: str = "middle",
    *,
    size: int = 13,
    angle: int = 0,
) -> None:
    """A piece of text on the axes of the cache."""
    figure.add_annotation(
        x=x,
        y=y,
        text=text,
        font={"color": colour, "size": size},
        yanchor=anchor,
        textangle=angle,
        showarrow=False,
        xref="x2",
        yref="y2",
    )


def _draw_tree(figure: go.Figure, now: Step, words: int, levels: int) -> None:
    """Columns in the order of the sentence; the contest of this step is drawn in the colours of the boxes."""
    lines: dict[tuple[str, float, str], tuple[list, list]] = {}

    def line(colour: str, width: float, dash: str, xs: list, ys: list) -> None:
        every = lines.setdefault((colour, width, dash), ([], []))
        every[0].extend([*xs, None])
        every[1].extend([*ys, None])

    for position in range(now.number):
        height, to = now.level[position], now.parent[position]
        if to == NO_WORD:
            line(_STAYS, 3, "solid", [position] * 2, [0, height])
        elif position == now.loser:
            line(_GOES, 3, "dash", [position, position, to], [0, height, height])
        else:
            line(_GONE, 1.5, "solid", [position, position, to], [0, height, height])
    for (colour, width, dash), (xs, ys) in sorted(lines.items()):
        figure.add_scatter(
            x=xs, y=ys, mode="lines", line={"color": colour, "width": width, "dash": dash}, hoverinfo="skip"
        )
    for kept, marker in (
        (True, {"color": _STAYS, "size": 10, "symbol": "diamond"}),
        (False, {"color": _GONE, "size": 6, "symbol": "circle"}),
    ):
        there = [position for position in range(now.number) if (now.parent[position] == NO_WORD) == kept]
        figure.add_scatter(
            x=there,
            y=[now.level[position] for position in there],
            mode="markers",
            marker=marker,
            text=[_life(now, position) for position in there],
            hovertemplate="%{text}<extra></extra>",
        )
    many = words > 24
    named = [(theme.shown(word, 11), up == NO_WORD) for word, up in zip(now.words, now.parent, strict=True)]
    figure.layout.xaxis.update(
        tickvals=list(range(now.number)),
        ticktext=[f"<b>{word}</b>" if kept else word for word, kept in named],
        tickangle=-90 if many else -60,
        tickfont={"size": 10 if many else 13},
        range=[-0.7, words - 0.3],
        showgrid=False,
        fixedrange=True,
    )
    top = max(levels, 1)
    figure.layout.yaxis.update(
        title="level of the tree",
        range=[-0.1 * top, 1.1 * top],
        tickmode="linear" if top <= 8 else "auto",
        tick0=0,
        dtick=1,
        fixedrange=True,
    )


def _life(now: Step, position: int) -> str:
    word = theme.shown(now.words[position])
    to = now.parent[position]
    if to != NO_WORD:
        return f"{word}: lost to {theme.shown(now.words[to])} in a contest of level {now.level[position]}"
    return f"{word}: cached, level {now.level[position]}"
