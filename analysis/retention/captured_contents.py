"""Keys, values and last queries of captured tokens, as a policy that reads them would find them in a cache."""

from __future__ import annotations

import torch
from torch import Tensor

from treekv.policies.ranking import at_ranks


class CapturedContents:
    """The `SlotContents` of a simulation, whose rows are layers or heads of a captured text of T tokens.

    Args:
        query: float32 [rows, query_heads, T, head_dim], scaled, after rotary embedding; None if the
            policy looks at none.
        key: float32 [rows, kv_heads, T, head_dim], after rotary embedding.
        value: float32 [rows, kv_heads, T, value_dim].
        stored: the keys as a cache stores them.
        queries: how many of the last queries the policy looks at.
    """

    def __init__(self, query: Tensor | None, key: Tensor, value: Tensor, stored: Tensor, queries: int) -> None:
        self._query, self._key, self._value, self._stored, self._queries = query, key, value, stored, queries

    def by_rank(self, slots: Tensor, position: Tensor) -> CapturedTokens:
        return CapturedTokens(self._query, self._key, self._value, self._stored, self._queries, slots, position)

    def prompt(self, length: int) -> CapturedTokens:
        """The `Contents` of the first `length` tokens."""
        position = torch.arange(length, device=self._key.device).expand(*self._key.shape[:2], -1)
        return self.by_rank(position, position)


class CapturedTokens:
    """The `Contents` of the tokens in `slots` LongTensor [rows, heads, n], oldest first, of a `CapturedContents`;
    `position` [rows, heads, all slots] are their positions by slot."""

    def __init__(
        self,
        query: Tensor | None,
        key: Tensor,
        value: Tensor,
        stored: Tensor,
        queries: int,
        slots: Tensor,
        position: Tensor,
    ) -> None:
        self._query, self._key, self._value, self._stored = query, key, value, stored
        self._queries, self._slots, self._position = queries, slots, position

    def keys(self, ranks: slice | Tensor | None = None) -> Tensor:
        return self._chosen(self._stored, ranks)

    def values(self) -> Tensor:
        return self._chosen(self._value)

    def logits(self) -> Tensor:
        assert self._query is not None  # of a policy that looks at queries
        seen = int(self._position[0, 0, self._slots[0, 0, -1]]) + 1
        last = self._query[:, :, seen - self._queries : seen].unflatten(1, (self._key.shape[1], -1))
        keys = self._chosen(self._key)
        return (last.flatten(2, 3) @ keys.transpose(2, 3)).unflatten(2, last.shape[2:4])

    def _chosen(self, tensor: Tensor, ranks: slice | Tensor | None = None) -> Tensor:
        slots = self._slots if ranks is None else at_ranks(self._slots, ranks)
        return at_ranks(tensor, self._position.gather(2, slots))
