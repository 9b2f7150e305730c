"""Figures of an evaluation: quality against budget, loss against position, the needle grid."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from analysis.evaluation.report.aggregate import Cell, Row, budget_order, describe_group, lower_is_better
from analysis.evaluation.report.titles import settings_title
from analysis.plot import theme
from analysis.plot.policy_colours import colours
from treekv.errors import TreeKVError

_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x")
_FULL = theme.QUIET
_COLUMNS = 4  # of small grids
_POINTS = 16  # of a line of losses


def quality(rows: Sequence[Row], paired: str | None = None) -> go.Figure:
    """Draw the mean score (y) of each settings against the budget (x), with its bootstrap interval.

    `paired` names the baseline of the rows' differences and draws these in place of the scores: documents differ far
    more among each other than settings do on one document, so that intervals of scores hide the differences.

    The full cache, which has no budget, is a dashed horizontal line. With a single budget, settings are ranked instead,
    the best at the top. The text alternative is in `layout.meta["alt"]`.

    Args:
        rows: from `aggregate.summarize`, of one model, task and group.

    Raises:
        TreeKVError: no row has a score, or the rows are of several models, tasks or groups.
    """
    rows = [row for row in rows if row.estimate is not None]
    if paired is not None:
        rows = [replace(row, estimate=row.difference) for row in rows if row.difference is not None]
    if not rows:
        raise TreeKVError("there is no score to draw")
    first = rows[0]
    if any((row.model, row.task, row.group, row.score) != _place(first) for row in rows):
        raise TreeKVError("rows of several models, tasks or lengths cannot be one figure")
    budgets = sorted({row.budget for row in rows if row.budget is not None}, key=budget_order)
    labels = [f"{budget:,}" if isinstance(budget, int) else str(budget) for budget in budgets]
    spoken = [f"{row.title} at {row.budget or 'all'} {_spoken(row)}" for row in rows]
    minus = "" if paired is None else f" minus that of {theme.shown(settings_title(paired))}"
    alt = f"Mean {first.score}{minus} by settings and budget: {'; '.join(spoken)}."
    less = lower_is_better(first.score)
    subtitle = (
        f"{theme.shown(first.model)}{theme.shown(describe_group(first.group), 80)} · "
        f"{'lower' if less else 'higher'} is better · bars are 95 % bootstrap intervals"
        f"{'' if paired is None else ' of paired differences'}"
    )
    task, score = theme.shown(first.task), f"{theme.shown(first.score)}{minus}"
    if len(budgets) < 2:
        kept = f" with {labels[0]} kept" if labels else ""
        return _ranking(rows, f"{task}: {score}{kept}", subtitle, alt, zero=paired is not None)
    figure = theme.figure(f"{task}: {score} against budget", subtitle, alt)
    names = list(dict.fromkeys(row.name for row in rows if row.budget is not None))
    for number, (name, colour) in enumerate(zip(names, colours(names), strict=True)):
        own = [row for row in rows if row.name == name and row.budget is not None]
        means = [row.estimate.mean for row in own if row.estimate]
        low = [(e.low if e.low is not None else e.mean) for row in own if (e := row.estimate)]
        high = [(e.high if e.high is not None else e.mean) for row in own if (e := row.estimate)]
        figure.add_scatter(
            x=[labels[budgets.index(row.budget)] for row in own if row.budget is not None],
            y=means,
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [b - a for a, b in zip(means, high, strict=True)],
                "arrayminus": [a - b for a, b in zip(means, low, strict=True)],
                "thickness": 1.2,
            },
            mode="lines+markers",
            name=theme.shown(own[0].title),
            line={"color": colour, "width": 2.5, "dash": theme.dash(number)},
            marker={"symbol": _SYMBOLS[number % len(_SYMBOLS)], "size": 9},
            hovertemplate=f"{theme.shown(own[0].title)} at %{{x}}: %{{y:.4g}}<extra></extra>",
        )
    for row in rows:
        if row.budget is None and row.estimate is not None:
            figure.add_scatter(
                x=labels or ["all"],
                y=[row.estimate.mean] * max(len(labels), 1),
                mode="lines" if len(labels) > 1 else "lines+markers",
                name=theme.shown(f"{row.title} (all tokens)"),
                line={"color": _FULL, "width": 1.5, "dash": "dash"},
                hovertemplate=f"{theme.shown(row.title)}: %{{y:.4g}}<extra></extra>",
            )
    if paired is not None:
        figure.add_hline(y=0, line={"color": _FULL, "width": 1.5, "dash": "dash"})
    figure.update_xaxes(title="budget (tokens, or share of the document)", type="category")
    figure.update_yaxes(title=score)
    return figure.update_layout(showlegend=True)


def _ranking(rows: Sequence[Row], title: str, subtitle: str, alt: str, zero: bool = False) -> go.Figure:
    """Rank the settings of one budget, the best at the top; the full cache is grey, with a line at its mean."""
    less = lower_is_better(rows[0].score)
    ranked = sorted(rows, key=_mean, reverse=less)  # from below
    figure = theme.figure(title, subtitle, alt, height=190 + 30 * len(ranked))
    means = [_mean(row) for row in ranked]
    ends = [
        (e.low, e.high) if (e := row.estimate) and e.low is not None and e.high is not None else None for row in ranked
    ]
    figure.add_scatter(
        x=means,
        y=[_name(row) for row in ranked],
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [end[1] - mean if end else 0.0 for mean, end in zip(means, ends, strict=True)],
            "arrayminus": [mean - end[0] if end else 0.0 for mean, end in zip(means, ends, strict=True)],
            "thickness": 1.2,
            "color": _FULL,
        },
        mode="markers",
        marker={"size": 11, "color": [_FULL if row.budget is None else colours([row.name])[0] for row in ranked]},
        hovertemplate="%{y}: %{x:.4g}<extra></extra>",
    )
    for row in rows:
        if row.budget is None:
            figure.add_vline(x=_mean(row), line={"color": _FULL, "width": 1.5, "dash": "dash"})
    if zero:
        figure.add_vline(x=0, line={"color": _FULL, "width": 1.5, "dash": "dash"})
    figure.update_xaxes(title=theme.shown(rows[0].score))
    figure.update_yaxes(type="category", showgrid=False, automargin=True)
    return figure.update_layout(showlegend=False)


def loss_by_position(cells: Sequence[Cell]) -> go.Figure:
    """Draw how far the loss (y, nats per token) of each cell exceeds that of the full cache along the text (x).

    Without a full cache the reference is the mean of all cells; a single cell is drawn as it is. Losses are averaged
    over the documents that all cells have and pooled to at most 16 stretches, because the variation along a text is
    far larger than the differences between settings. The text alternative is in `layout.meta["alt"]`.

    Args:
        cells: from `aggregate.group_cells`, of one model, task and group; records without `detail["by_position"]` are
            left out.

    Raises:
        TreeKVError: no record has losses by position.
    """
    found = {_label(cell): (cell, losses) for cell in cells if (losses := _losses(cell))}
    if not found:
        raise TreeKVError("no record has losses by position; the task ppl records them")
    first = next(cell for cell, _ in found.values())
    if any(cell.comparison_key != first.comparison_key for cell, _ in found.values()):
        raise TreeKVError("cells of several models, tasks or lengths cannot be one figure")
    documents = set.intersection(*(set(losses) for _, losses in found.values()))
    of = {name: {d: losses[d] for d in documents or losses} for name, (_, losses) in found.items()}
    where = sorted(set.intersection(*(set(one) for losses in of.values() for one in losses.values())))
    pools = [pool for pool in np.array_split(np.array(where), min(_POINTS, len(where)) or 1) if len(pool)]
    lines = {name: np.array([_pooled(losses.values(), pool) for pool in pools]) for name, losses in of.items()}
    full = next((name for name, (cell, _) in found.items() if cell.budget is None), None)
    reference = np.zeros(len(pools))
    title, axis = "loss against position", "loss (nats per token)"
    if len(lines) > 1 and documents:
        reference = np.mean(list(lines.values()), axis=0) if full is None else lines[full]
        compared = "the mean of all" if full is None else "the full cache"
        title, axis = f"loss above {compared}, by position", f"loss above {compared} (nats per token)"
    spoken = []
    for name, loss in lines.items():
        quarters = [part.mean() for part in np.array_split(loss, min(4, len(loss)))]
        spoken.append(f"{name} {', '.join(f'{value:.3f}' for value in quarters)}")
    figure = theme.figure(
        f"{theme.shown(first.task)}: {title}",
        f"{theme.shown(first.model)}{theme.shown(describe_group(first.group), 80)} · mean of "
        f"{max(len(losses) for losses in of.values())} documents · lower is better",
        f"Mean loss in nats in the quarters of the text, from the first to the last: {'; '.join(spoken)}.",
    )
    drawn = {name: loss - reference for name, loss in lines.items() if name != full or not reference.any()}
    for number, ((name, loss), colour) in enumerate(zip(drawn.items(), colours(list(drawn)), strict=True)):
        label = theme.shown(name)
        figure.add_scatter(
            x=[int(pool[0]) for pool in pools],
            y=loss,
            mode="lines+markers" if len(pools) > 1 else "markers",
            name=label,
            line={"color": colour, "width": 2, "dash": theme.dash(number)},
            marker={"symbol": _SYMBOLS[number % len(_SYMBOLS)], "size": 6},
            hovertemplate=f"{label}, from token %{{x:,}}: %{{y:.3f}}<extra></extra>",
        )
    if reference.any():
        figure.add_hline(y=0, line={"color": _FULL, "width": 1.5, "dash": "dash"})
    figure.update_xaxes(title="position in the text (tokens)")
    figure.update_yaxes(title=axis)
    return figure.update_layout(showlegend=True)


def needle_grid(cells: Sequence[Cell]) -> go.Figure:
    """Draw the mean score of each depth (y, per cent of the text) and length (x), one grid for each cell.

    The text alternative is in `layout.meta["alt"]`.

    Args:
        cells: from `aggregate.group_cells`, of one model and task, of any lengths; documents without the facts `depth`
            and `length` are left out.

    Raises:
        TreeKVError: no document has a depth and a length.
    """
    grids: dict[str, dict[tuple[float, int], list[float]]] = {}
    for cell in cells:
        for record in cell.records:
            if record.error is None and {"depth", "length"} <= record.facts.keys():
                place = (float(record.facts["depth"]), int(record.facts["length"]))
                scores = grids.setdefault(_label(cell), {}).setdefault(place, [])
                scores.append(next(iter(record.scores.values())))
    if not grids:
        raise TreeKVError("no document has a depth and a length; the task needle records them")
    if len({(cell.model, cell.task) for cell in cells}) > 1:
        raise TreeKVError("cells of several models or tasks cannot be one figure")
    depths = sorted({depth for grid in grids.values() for depth, _ in grid})
    lengths = sorted({length for grid in grids.values() for _, length in grid})
    spoken = [f"{name} {np.mean([np.mean(scores) for scores in grid.values()]):.0f} %" for name, grid in grids.items()]
    n_columns = min(len(grids), _COLUMNS)
    n_rows = math.ceil(len(grids) / n_columns)
    base = theme.figure(
        f"{theme.shown(cells[0].task)}: score by length and depth",
        f"{theme.shown(cells[0].model)} · mean score in per cent",
        f"Mean score by length and depth of the needle; over the whole grid: {'; '.join(spoken)}.",
        height=220 + n_rows * (130 + 26 * len(depths)),
    )
    figure = make_subplots(
        rows=n_rows,
        cols=n_columns,
        shared_yaxes=True,
        shared_xaxes=True,
        subplot_titles=[theme.shown(name).replace(" at ", "<br>at ") for name in grids],
        vertical_spacing=0.33 / n_rows,
        horizontal_spacing=0.02,
    )
    for number, (name, grid) in enumerate(grids.items()):
        figure.add_heatmap(
            x=[f"{length:,}" for length in lengths],
            y=[f"{depth:g}" for depth in depths],
            z=[[_percent(grid.get((depth, length))) for length in lengths] for depth in depths],
            coloraxis="coloraxis",
            texttemplate="%{z}",
            hovertemplate=f"{theme.shown(name)}, length %{{x}}, depth %{{y}} %: %{{z}} %<extra></extra>",
            row=number // n_columns + 1,
            col=number % n_columns + 1,
        )
    figure.update_layout(
        {key: value for key, value in base.layout.to_plotly_json().items() if key not in ("xaxis", "yaxis", "template")}
    )
    figure.update_layout(
        margin={"t": 130, "b": 90},  # room for the grids' names under the title, and for slanted lengths
        coloraxis={
            "colorscale": "Cividis",
            "cmin": 0,
            "cmax": 100,
            "colorbar": {"thickness": 14, "outlinewidth": 0, "title": {"text": "score", "side": "top"}},
        },
    )
    figure.update_xaxes(type="category", showgrid=False, tickfont={"size": 10})
    figure.update_yaxes(type="category", showgrid=False, autorange="reversed")
    figure.update_xaxes(title={"text": "length (tokens)", "standoff": 20}, row=n_rows)
    figure.update_yaxes(title="depth (%)", col=1)
    return figure


def _place(row: Row) -> tuple[str, str, dict[str, object], str]:
    return row.model, row.task, row.group, row.score


def _mean(row: Row) -> float:
    return row.estimate.mean if row.estimate else math.nan


def _name(row: Row) -> str:
    return theme.shown(f"{row.title} (all tokens)" if row.budget is None else row.title)


def _spoken(row: Row) -> str:
    estimate = row.estimate
    if estimate is None:
        return ""
    if estimate.low is None or estimate.high is None:
        return f"{estimate.mean:.4g}"
    return f"{estimate.mean:.4g} ({estimate.low:.4g} to {estimate.high:.4g})"


def _label(cell: Cell) -> str:
    return cell.title if cell.budget is None else f"{cell.title} at {cell.budget}"


def _losses(cell: Cell) -> dict[str, dict[int, tuple[float, int]]]:
    """Mean loss and number of tokens by the first position of each stretch, for every document that has them."""
    found = {}
    for record in cell.records:
        by = record.detail.get("by_position")
        if record.error is None and by:
            each = zip(by["position"], by["loss"], by["tokens"], strict=True)
            found[str(record.of.document)] = {int(position): (float(loss), int(n)) for position, loss, n in each}
    return found


def _pooled(documents: Iterable[dict[int, tuple[float, int]]], pool: np.ndarray) -> float:
    """The loss per token in a stretch, averaged over documents."""
    means = []
    for losses in documents:
        loss, tokens = zip(*(losses[position] for position in pool.tolist()), strict=True)
        means.append(np.average(loss, weights=tokens))
    return float(np.mean(means))


def _percent(scores: list[float] | None) -> int | None:
    return None if not scores else round(float(np.mean(scores)))
