"""Loss against length, as in the paper's figures 4 and 5: the mean loss of all tokens read so far."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from analysis.evaluation.report.aggregate import Cell, describe_group
from analysis.evaluation.report.titles import settings_title
from analysis.plot import theme
from analysis.plot.policy_colours import colours
from treekv.errors import TreeKVError

_RESAMPLES = 2000
_POINTS = 48  # of a line, evenly on the logarithmic axis

# Of each document the lengths at which its losses are known, and the mean loss up to each.
Losses = dict[str, tuple[list[int], np.ndarray]]


def running_loss(cells: Sequence[Cell], baseline: str = "tree") -> xr.Dataset:
    """Mean loss of the first tokens of a text, for every length, and how far it is from that of a baseline.

    Its exponential is the perplexity of these tokens; the paper calls it log mean perplexity. Means and intervals are
    over the documents that all settings have (those of several seeds are averaged).

    Args:
        cells: from `aggregate.group_cells`, of one model, task and group; records without `detail["by_position"]` and
            cells without any are left out.
        baseline: the settings that the others are compared with, document by document.

    Returns:
        Dataset over (settings, length), in nats per token: loss; difference, loss minus that of the baseline; and
        difference_low and difference_high, its 95 % bootstrap interval over documents (percentiles), NaN with one
        document. length is a number of tokens; attrs: baseline, documents, model, task and group (in words).

    Raises:
        TreeKVError: no losses by position, cells of several models, tasks or groups or two of one name, no document
            that all have, or no such baseline.
    """
    found, documents, length = _checked(cells, baseline)
    loss = np.array([[losses[document][1] for document in documents] for losses in found.values()])
    apart = loss - loss[list(found).index(baseline)]
    low, high = _interval(apart)
    first = next(cell for cell in cells if cell.name in found)
    dims = ("settings", "length")
    unit = {"units": "nats per token"}
    return xr.Dataset(
        {
            "loss": (dims, loss.mean(1), unit),
            "difference": (dims, apart.mean(1), unit),
            "difference_low": (dims, low, unit),
            "difference_high": (dims, high, unit),
        },
        coords={"settings": list(found), "length": np.asarray(length)},
        attrs={
            "baseline": baseline,
            "documents": len(documents),
            "model": first.model,
            "task": first.task,
            "group": describe_group(first.group).removeprefix(", "),
        },
    )


def comparable(cells: Sequence[Cell], baseline: str | None) -> bool:
    """Whether `running_loss` accepts these cells and there is something to compare."""
    try:
        return baseline is not None and len(_checked(cells, baseline)[0]) > 1
    except TreeKVError:
        return False


def loss_by_length(cells: Sequence[Cell], baseline: str = "tree") -> go.Figure:
    """Draw `running_loss`: above the loss of each settings (y) against the length (x, logarithmic), as the paper does,
    below its difference from the baseline with its 95 % interval over documents.

    The text alternative, with the differences at the whole length, is in `layout.meta["alt"]`. Raises TreeKVError as
    `running_loss` does.
    """
    found = running_loss(cells, baseline)
    length = found["length"].values
    wanted = np.geomspace(length[0], length[-1], _POINTS)
    part = found.isel(length=np.unique(np.clip(np.searchsorted(length, wanted), 0, len(length) - 1)))
    x = part["length"].values
    names = [theme.shown(settings_title(str(name))) for name in found["settings"].values]
    documents = int(found.attrs["documents"])
    last = found.isel(length=-1)
    spoken = []
    for number, name in enumerate(names):
        loss, low, high = (float(last[field][number]) for field in ("loss", "difference_low", "difference_high"))
        words = f"{name} {loss:.3f}"
        if str(found["settings"].values[number]) != baseline:
            words += f" ({float(last['difference'][number]):+.3f}"
            words += ")" if np.isnan(low) else f", {low:+.3f} to {high:+.3f})"
        spoken.append(words)
    where = f"{documents} document{'s' * (documents != 1)}"
    against = theme.shown(settings_title(baseline))
    figure = theme.grid(
        "Loss of all tokens so far, by length",
        f"{theme.shown(found.attrs['model'])}, {theme.shown(found.attrs['group'], 80)} · mean of {where} · lower is "
        f"better{' · shaded: 95 % interval over documents' if documents > 1 else ''}",
        f"Mean loss in nats of all {length[-1]:,} tokens, and minus that of {against}, {where}: {'; '.join(spoken)}.",
        ["loss", f"minus that of {against}"],
        1,
        760,
    )
    for number, (name, colour) in enumerate(zip(names, colours(names), strict=True)):
        style = {"color": colour, "width": 2, "dash": theme.dash(number)}
        for row, field in enumerate(("loss", "difference"), start=1):
            if field == "difference" and documents > 1 and str(found["settings"].values[number]) != baseline:
                low, high = part["difference_low"].values[number], part["difference_high"].values[number]
                theme.shade(figure, x, low, high, colour, name, row=row, col=1)
            figure.add_scatter(
                x=x,
                y=part[field].values[number],
                mode="lines",
                name=name,
                legendgroup=name,
                showlegend=row == 1,
                line=style,
                hovertemplate=f"{name}, %{{x:,}} tokens: %{{y:{'.3f' if row == 1 else '+.3f'}}}<extra></extra>",
                row=row,
                col=1,
            )
    figure.update_xaxes(type="log")
    figure.update_xaxes(title="length (tokens)", showticklabels=True, row=2, col=1)
    figure.update_yaxes(title="nats per token", matches=None)
    # Below: beside the panels it would take a third of a narrow page.
    return figure.update_layout(showlegend=True, legend={"orientation": "h", "y": -0.12, "yanchor": "top", "x": 0})


def _checked(cells: Sequence[Cell], baseline: str) -> tuple[dict[str, Losses], list[str], list[int]]:
    """The losses of each settings by document, the documents that all have, and the lengths."""
    found = {cell.name: losses for cell in cells if (losses := _by_document(cell))}
    used = [cell for cell in cells if cell.name in found]
    if not found:
        raise TreeKVError("no record has losses by position; the task ppl records them")
    if len({cell.comparison_key for cell in used}) > 1:
        raise TreeKVError("cells of several models, tasks or lengths cannot be one figure")
    if len(used) > len(found):
        raise TreeKVError("there are several budgets of the same settings; give the cells of one")
    if baseline not in found:
        raise TreeKVError(f"there are no settings {baseline!r} to compare with; there are {', '.join(found)}")
    documents = sorted(set.intersection(*(set(losses) for losses in found.values())))
    if not documents:
        raise TreeKVError("no document was measured with all settings")
    edges = {tuple(losses[document][0]) for losses in found.values() for document in documents}
    if len(edges) > 1:
        raise TreeKVError("the documents have losses at different positions; measure them with one length")
    return found, documents, list(edges.pop())


def _by_document(cell: Cell) -> Losses:
    """The losses of the documents of a cell, mean over seeds."""
    found: dict[str, list[tuple[list[int], np.ndarray]]] = {}
    for record in cell.records:
        by = record.detail.get("by_position")
        if record.error is None and by:
            tokens = np.asarray(by["tokens"], float)
            running = np.cumsum(np.asarray(by["loss"], float) * tokens) / np.cumsum(tokens)
            length = [int(first + count) for first, count in zip(by["position"], by["tokens"], strict=True)]
            found.setdefault(f"{record.of.document} {record.of.content}", []).append((length, running))
    return {
        document: (several[0][0], np.mean([running for _, running in several], axis=0))
        for document, several in found.items()
    }


def _interval(apart: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the 95 % bootstrap interval over documents of values [settings, document, length]."""
    documents = apart.shape[1]
    if documents < 2:
        nothing = np.full((apart.shape[0], apart.shape[2]), np.nan)
        return nothing, nothing
    generator = np.random.default_rng(0)
    drawn = generator.multinomial(documents, np.full(documents, 1 / documents), size=_RESAMPLES) / documents
    low, high = np.quantile(np.einsum("rd,sdl->rsl", drawn, apart), (0.025, 0.975), axis=0)
    return low, high
