"""Rows of a ledger that have the same settings, and what their policy sees of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from treekv import policies

if TYPE_CHECKING:
    from treekv.config import TreeKVConfig
    from treekv.ledger import Ledger


class Part:
    """Rows side by side with the same settings: the `Scores` of their policy, by rank.

    Attributes:
        rows: which rows of the ledger.
        config, policy: their settings.
        order, position, sums: these rows of the ledger's tensors.
        held: ranks, newcomers included; the ledger says so before it asks the policy.
    """

    def __init__(self, ledger: Ledger, rows: slice, config: TreeKVConfig) -> None:
        self.rows, self.config = rows, config
        self.policy = policies.get(config.policy)
        self.held = 0
        self.traced = ledger.trace is not None
        self.shape = (rows.stop - rows.start, ledger.heads)
        self.device = ledger.device
        self.layer = ledger.layer_of(rows)
        # Not the ledger itself, which would then be freed by the garbage collector only.
        self._capacity, self._cursor = ledger.capacity, ledger.cursor
        self._seen, self._since = ledger.seen, ledger.since
        self.bind(ledger)

    def bind(self, ledger: Ledger) -> None:
        """Take the ledger's tensors, which it replaces now and then."""
        self.order, self.position, self.sums = ledger.books(self.rows)

    @property
    def capacity(self) -> int:
        capacity = self._capacity.first(self.rows)
        assert capacity is not None  # or nothing would be evicted
        return capacity

    @property
    def cursor(self) -> int | Tensor:
        return self._cursor.shared(self.rows, self.device)

    @property
    def step(self) -> int | Tensor:
        return self._seen.shared(self.rows, self.device) - 1

    def average(self, ranks: slice | Tensor) -> Tensor:
        slots = self._slots(ranks)
        since, seen = self._since.shared(self.rows, self.device), self._seen.shared(self.rows, self.device)
        return self.sums.gather(2, slots) / observations(self.position.gather(2, slots), since, seen)

    def total(self, ranks: slice | Tensor) -> Tensor:
        return self.sums.gather(2, self._slots(ranks))

    def _slots(self, ranks: slice | Tensor) -> Tensor:
        if isinstance(ranks, slice):
            used = self.order if self.held == self.order.shape[2] else self.order.narrow(2, 0, self.held)
            return used[..., ranks]
        return self.order.gather(2, ranks.expand(*self.shape, -1))


def observations(position: Tensor, since: int | Tensor, seen: int | Tensor) -> Tensor:
    """How many queries have observed the tokens at `position` [rows, heads, n]: those from `since` on of `seen`."""
    if not isinstance(since, int) or since:
        position = position.clamp(min=since) if isinstance(since, int) else position.maximum(since)
    return seen - position
