"""Budgets of a few sizes only: heads of one capacity decode together, so a few sizes are faster than many."""

from __future__ import annotations

import itertools
from typing import Final

import numpy as np
import xarray as xr

from analysis.units import count as count_of
from treekv.errors import TreeKVError

CLASSES: Final = 4
MOST_CLASSES: Final = 6


def budget_classes(budgets: xr.DataArray, count: int = CLASSES, unit: int = 1) -> xr.DataArray:
    """The same total in at most `count` sizes: heads with like budgets get the same.

    A budget b says that the damage of its head falls as b^2 / tokens (budgets by need and by simulated curves are both
    the least of the sum of such damages). Heads are sorted by their budget and cut into runs of one size each, such
    that the sum of damages is least: a run of n heads whose b^2 sum to a gets tokens in proportion to sqrt(a / n),
    which leaves a damage of sqrt(a n), squared with the others. Sizes are then multiples of `unit` near these whose
    total is the same.

    Args:
        budgets: integers (layer, head), as `need_budgets` returns them.
        count: how many sizes.
        unit: what every size is a multiple of; their mean must be one.

    Returns:
        int64 like `budgets`, with its coordinates and attrs, and attrs["classes"], the sizes in words.

    Raises:
        TreeKVError: fewer than one size or more than six, or a mean that is no multiple of `unit`.
    """
    values = budgets.transpose("layer", "head").values.astype(np.int64)
    total = int(values.sum())
    if not 1 <= count <= MOST_CLASSES or unit < 1:
        raise TreeKVError(f"classes must be 1 to {MOST_CLASSES} sizes, in a unit of at least 1, got {count} and {unit}")
    if total % (unit * values.size):
        raise TreeKVError(
            f"{total} tokens for {values.size} heads are no multiple of {unit} a head; sizes in that unit cannot add up"
        )
    order = np.argsort(values, axis=None, kind="stable")
    ascending = values.ravel()[order].astype(np.float64)
    cuts = _best_cuts(np.square(ascending), min(count, len(ascending)))
    runs = [slice(first, last) for first, last in itertools.pairwise(cuts)]
    sizes = _whole_sizes([np.square(ascending[run]) for run in runs], total, unit)
    found = np.empty(len(ascending), np.int64)
    for run, size in zip(runs, sizes, strict=True):
        found[order[run]] = size
    table = budgets.transpose("layer", "head").copy(data=found.reshape(values.shape))
    first, *others = [
        (int(size), int(heads)) for size, heads in zip(*np.unique(found, return_counts=True), strict=True)
    ]
    words = [f"{first[0]} tokens for {count_of(first[1], 'head')}", *(f"{size} for {heads}" for size, heads in others)]
    table.attrs["classes"] = ", ".join(words)
    return table


def _best_cuts(energy: np.ndarray, count: int) -> list[int]:
    """Where to cut ascending energies into `count` runs, 0 and their number included: least sum of sqrt(a n)."""
    heads = len(energy)
    before = np.concatenate(([0.0], np.cumsum(energy)))
    cost = np.full((count + 1, heads + 1), np.inf)
    start = np.zeros((count + 1, heads + 1), np.int64)
    cost[0, 0] = 0.0
    for runs in range(1, count + 1):
        for end in range(runs, heads + 1):
            first = np.arange(runs - 1, end)
            found = cost[runs - 1, first] + np.sqrt((before[end] - before[first]) * (end - first))
            best = int(found.argmin())
            cost[runs, end], start[runs, end] = found[best], first[best]
    cuts = [heads]
    for runs in range(count, 0, -1):
        cuts.append(int(start[runs, cuts[-1]]))
    return cuts[::-1]


def _whole_sizes(energies: list[np.ndarray], total: int, unit: int) -> list[int]:
    """A size for each run of heads, a multiple of `unit`: of those near the best sizes that have the exact total, the
    ones with the least damage."""
    heads = np.array([len(energy) for energy in energies])
    sums = np.array([energy.sum() for energy in energies])
    share = np.sqrt(sums * heads)
    best = total * share / share.sum() / heads / unit
    # The size of the run with the fewest heads follows from those of the others.
    last = int(heads.argmin())
    free = np.arange(len(heads)) != last
    reach = 4
    while True:
        steps = np.meshgrid(*[np.arange(-reach, reach + 1)] * int(free.sum()), indexing="ij")
        tried = np.empty((steps[0].size if steps else 1, len(heads)), np.int64)
        for run, step in zip(np.flatnonzero(free), steps, strict=True):
            tried[:, run] = round(best[run]) + step.ravel()
        left = total // unit - tried[:, free] @ heads[free]
        tried[:, last] = left // heads[last]
        exact = tried[(left % heads[last] == 0) & (tried > 0).all(1)]
        if len(exact):
            return [int(size) * unit for size in exact[(sums / exact).sum(1).argmin()]]
        reach *= 2
