"""Rows of a ledger by rank: what their policy sees of them, and how an eviction changes their order."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from treekv.cache.slot_contents import SlotContents
from treekv.policies.ranking import without
from treekv.policies.scores import Contents


class RankedScores:
    """The `Scores` of some rows, from their state by slot.

    Args:
        order: LongTensor [rows, heads, slots], the slot at each rank; changed by `move_to_the_end`.
        position: LongTensor [rows, heads, slots].
        sums: float32 [rows, heads, slots].
        held: ranks, the newest tokens included.
        capacity: ranks at rest.
        cursor, first_query, seen: one number for all rows, or LongTensor [rows, 1, 1].
        layer: the number of the rows' layer, or of each row's.
        traced: whether survivors are recorded.
        delay: how many tokens after a token a query must come to count.
        heads: LongTensor [rows, 1], the number of each row's only head, where heads are rows.
        contents: of the rows, for a policy that reads them.
    """

    def __init__(
        self,
        *,
        order: Tensor,
        position: Tensor,
        sums: Tensor,
        held: int,
        capacity: int,
        cursor: int | Tensor,
        first_query: int | Tensor,
        seen: int | Tensor,
        layer: int | tuple[int, ...],
        traced: bool,
        heads: int | Tensor | None = None,
        delay: int = 0,
        contents: SlotContents | None = None,
    ) -> None:
        self.held, self.capacity, self.cursor = held, capacity, cursor
        self.layer, self.traced, self.device = layer, traced, order.device
        self.step = seen - 1
        self.order = order.narrow(2, 0, held)
        self.shape = (order.shape[0], order.shape[1])
        self.heads = order.shape[1] if heads is None else heads
        self._position, self._sums, self._first_query, self._seen = position, sums, first_query, seen
        self._delay, self._contents = delay, contents

    @property
    def contents(self) -> Contents:
        assert self._contents is not None  # its policy reads contents
        return self._contents.by_rank(self.order, self._position)

    def average(self, ranks: slice | Tensor) -> Tensor:
        slots = self._slots(ranks)
        position = self._position.gather(2, slots)
        counts = observations(position, self._first_query, self._seen, self._delay)
        averages = self._sums.gather(2, slots) / counts
        # Not observed yet is not lost yet.
        return averages.masked_fill(counts == 0, torch.inf) if self._delay else averages

    def total(self, ranks: slice | Tensor) -> Tensor:
        return self._sums.gather(2, self._slots(ranks))

    def _slots(self, ranks: slice | Tensor) -> Tensor:
        if isinstance(ranks, slice):
            return self.order[..., ranks]
        return self.order.gather(2, ranks.expand(*self.shape, -1))

    def move_one_to_the_end(self, rank: int) -> None:
        """Move the slot at `rank`, the same in all heads, behind the others."""
        later = self.order[..., rank:]
        later.copy_(torch.cat([later[..., 1:], later[..., :1]], dim=2))

    def move_to_the_end(self, ranks: Tensor, moved: Tensor) -> None:
        """Move the slots at `ranks` LongTensor [rows, heads, m] (ascending, distinct), which are `moved`, behind the
        others, in that order."""
        if ranks.shape[2] > 1:
            self.order.copy_(without(torch.cat([self.order, moved], dim=2), ranks))
            return
        last = self.held - 1
        earlier, later = self.order.narrow(2, 0, last), self.order.narrow(2, 1, last)
        earlier.copy_(torch.where(torch.arange(last, device=self.device) >= ranks, later, earlier))
        self.order.narrow(2, last, 1).copy_(moved)


def by_rank(change: Callable[[Tensor], Tensor], values: Tensor, order: Tensor) -> Tensor:
    """`change` applied to `values` [rows, heads, n] of the first n slots, or [rows, heads, q, n] of several queries,
    which it is given by rank: `order` [rows, heads, n or more] has the slot at each."""
    order = order.narrow(2, 0, values.shape[-1])
    order = order if values.ndim == 3 else order[:, :, None].expand_as(values)
    return torch.empty_like(values).scatter_(-1, order, change(values.gather(-1, order)))


def observations(position: Tensor, first_query: int | Tensor, seen: int | Tensor, delay: int = 0) -> Tensor:
    """How many of the queries `first_query` ... `seen` - 1 have observed the tokens at `position` [rows, heads, n], if
    a query has to come `delay` tokens after one."""
    if delay:
        return observations(position + delay, first_query, seen).clamp(min=0)
    if isinstance(first_query, Tensor):
        position = position.maximum(first_query)
    elif first_query:
        position = position.clamp(min=first_query)
    return seen - position


def late_sum(observed: Tensor, position: Tensor, start: int | Tensor, delay: int, decay: float = 1.0) -> Tensor:
    """What queries saw of tokens, of each token only those that come at least `delay` tokens after it.

    Args:
        observed: float32 [rows, heads, q, n] of the queries from position `start` on, or [rows, heads, n] of one.
        position: LongTensor [rows, heads, n] of the tokens.
        start: one number for all rows, or LongTensor [rows, 1, 1] for single queries.
        delay: in tokens; 0 for queries that count for every token that they see.
        decay: the factor of what the query before the last saw, its square of the one before that, and so on.

    Returns:
        float32 [rows, heads, n], summed over the queries.
    """
    if observed.ndim == 3:
        return observed * (position <= start - delay)
    q = observed.shape[2]
    queries = start + torch.arange(q, device=position.device)
    if decay < 1:
        observed = observed * decay ** torch.arange(q - 1, -1, -1, device=position.device)[:, None]
    return (observed * (position[:, :, None] <= queries[:, None] - delay)).sum(2)
