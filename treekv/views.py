"""The views of a ledger's books that a step needs, made once while nothing but what stands in the books changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from treekv.policies.tree import without

if TYPE_CHECKING:
    from treekv.ledger import Places
    from treekv.part import Part


class Ranked(NamedTuple):
    """Views by rank.

    Attributes:
        order: LongTensor [rows, heads, held].
        slots: the same twice, for losers and winners, [2, rows, heads, held]; to read only.
        position: LongTensor [2, rows, heads, slots] likewise.
        earlier, later, last: parts of `order`: all but the last rank, all but the first, and the last.
        ranks: LongTensor [held - 1], 0 ... held-2.
    """

    order: Tensor
    slots: Tensor
    position: Tensor
    earlier: Tensor
    later: Tensor
    last: Tensor
    ranks: Tensor

    def move_to_the_end(self, ranks: Tensor, moved: Tensor) -> None:
        """Put the slots at `ranks` LongTensor [rows, heads, m] (ascending, distinct), which are `moved`, behind the
        others in that order."""
        if ranks.shape[2] > 1:
            self.order.copy_(without(torch.cat([self.order, moved], dim=2), ranks))
        else:
            self.earlier.copy_(torch.where(self.ranks >= ranks, self.later, self.earlier))
            self.last.copy_(moved)


class Reader(NamedTuple):
    """Rows side by side whose policies look at attention and all accumulate it, or none does.

    Attributes:
        first: where they begin among the rows of a step.
        size: how many they are.
        sums: float32 [size, heads, n].
        new: LongTensor [size, heads, q], slots of the newcomers.
    """

    first: int
    size: int
    accumulates: bool
    sums: Tensor
    new: Tensor

    def see(self, observed: Tensor) -> None:
        """Take in what `Ledger.step` is told."""
        if self.size < observed.shape[0]:
            observed = observed.narrow(0, self.first, self.size)
        if self.accumulates:
            self.sums.scatter_(2, self.new, 0.0)
            self.sums.add_(observed)
        else:
            self.sums.copy_(observed)


class Views(NamedTuple):
    """What a step needs of the books.

    Attributes:
        places: of the newcomers.
        state: on what these depend besides the books.
        position: LongTensor [rows, heads, slots].
        ranked: before anybody goes; None if nobody does.
    """

    places: Places
    state: tuple[int | None, ...]
    position: Tensor
    readers: list[Reader]
    ranked: Ranked | None


def by_rank(order: Tensor, position: Tensor, ranks: Tensor) -> Ranked:
    """From `order` and `position` [rows, heads, slots] and `ranks` 0 ... held-1."""
    n = len(ranks) - 1
    order = order.narrow(2, 0, n + 1)
    parts = order.narrow(2, 0, n), order.narrow(2, 1, n), order.narrow(2, n, 1)
    return Ranked(order, order.expand(2, -1, -1, -1), position.expand(2, -1, -1, -1), *parts, ranks.narrow(0, 0, n))


def readers_of(parts: list[Part], sums: Tensor, new: Tensor) -> list[Reader]:
    """Of all rows of these parts, which have the `sums` [rows, heads, n] and newcomers in the slots `new` [rows, heads,
    q]."""
    found: list[tuple[int, int, bool]] = []
    row = 0
    for part in parts:
        size, accumulates = part.shape[0], part.policy.accumulates
        if part.policy.uses_attention:
            first, before, alike = found[-1] if found else (row, 0, accumulates)
            if (first + before, alike) == (row, accumulates):
                found[-1:] = [(first, before + size, accumulates)]
            else:
                found.append((row, size, accumulates))
        row += size
    return [
        Reader(first, size, accumulates, sums.narrow(0, first, size), new.narrow(0, first, size))
        for first, size, accumulates in found
    ]
