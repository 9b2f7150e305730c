"""Rows of a ledger by rank: what their policy sees of them, and how an eviction changes their order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from treekv.policies.ranking import without

if TYPE_CHECKING:
    from treekv.cache.ledger import Ledger


class Ranked:
    """The `Scores` of some rows.

    Attributes:
        order: LongTensor [rows, heads, held], a view of the ledger's.
        held: ranks, newcomers included.
    """

    def __init__(self, ledger: Ledger, rows: slice, held: int) -> None:
        self.held = held
        capacity = ledger.capacity.first(rows)
        assert capacity is not None  # or nothing would be evicted
        self.capacity = capacity
        self.device, self.traced = ledger.device, ledger.trace is not None
        self.cursor, self._since, self._seen = (
            numbers.shared(rows, self.device) for numbers in (ledger.cursor, ledger.since, ledger.seen)
        )
        self.step = self._seen - 1
        self.layer = ledger.layer_of(rows)
        self.order = ledger.part(ledger.order, rows).narrow(2, 0, held)
        self.shape = (self.order.shape[0], self.order.shape[1])
        self._position, self._sums = ledger.part(ledger.position, rows), ledger.part(ledger.sums, rows)

    def average(self, ranks: slice | Tensor) -> Tensor:
        slots = self._slots(ranks)
        return self._sums.gather(2, slots) / observations(self._position.gather(2, slots), self._since, self._seen)

    def total(self, ranks: slice | Tensor) -> Tensor:
        return self._sums.gather(2, self._slots(ranks))

    def _slots(self, ranks: slice | Tensor) -> Tensor:
        if isinstance(ranks, slice):
            return self.order[..., ranks]
        return self.order.gather(2, ranks.expand(*self.shape, -1))

    def move_to_the_end(self, ranks: Tensor, moved: Tensor) -> None:
        """Put the slots at `ranks` LongTensor [rows, heads, m] (ascending, distinct), which are `moved`, behind the
        others in that order."""
        if ranks.shape[2] > 1:
            self.order.copy_(without(torch.cat([self.order, moved], dim=2), ranks))
            return
        last = self.held - 1
        earlier, later = self.order.narrow(2, 0, last), self.order.narrow(2, 1, last)
        earlier.copy_(torch.where(torch.arange(last, device=self.device) >= ranks, later, earlier))
        self.order.narrow(2, last, 1).copy_(moved)


def observations(position: Tensor, since: int | Tensor, seen: int | Tensor) -> Tensor:
    """How many queries have observed the tokens at `position` [rows, heads, n]: those from `since` on of `seen`."""
    if not isinstance(since, int) or since:
        position = position.clamp(min=since) if isinstance(since, int) else position.maximum(since)
    return seen - position
