"""Who was evicted when, and by whom: two integers per token and head."""

from __future__ import annotations

import torch
from torch import Tensor

KEPT = -1
NOBODY = -1


class LayerTrace:
    """The evictions of one layer.

    Attributes:
        evicted_at: int32 [batch, kv_heads, tokens], the position of the token that was being processed when
            this one was evicted, -1 while it is kept.
        survivor: int32 of the same shape, the position of the token that won the comparison, -1 where nothing
            was compared (or nothing evicted).
    """

    def __init__(self, batch: int, heads: int, device: torch.device) -> None:
        self._evicted_at = torch.full((batch, heads, 0), KEPT, dtype=torch.int32, device=device)
        self._survivor = self._evicted_at.clone()
        self._tokens = 0

    @property
    def evicted_at(self) -> Tensor:
        return self._evicted_at[..., : self._tokens]

    @property
    def survivor(self) -> Tensor:
        return self._survivor[..., : self._tokens]

    def extend(self, tokens: int) -> None:
        """Make room for positions below `tokens`; new ones count as kept."""
        self._tokens = max(self._tokens, tokens)
        room = self._evicted_at.shape[2]
        if tokens > room:
            more = max(tokens - room, room // 4, 64)
            pad = (0, more)
            self._evicted_at = torch.nn.functional.pad(self._evicted_at, pad, value=KEPT)
            self._survivor = torch.nn.functional.pad(self._survivor, pad, value=NOBODY)

    def record(self, rows: slice, losers: Tensor, winners: Tensor | None, step: int | Tensor) -> None:
        """Note that `losers` [batch, heads, m] (positions) went at `step`, beaten by `winners`."""
        if isinstance(step, Tensor):
            when = step.int().expand_as(losers)
        else:
            when = torch.full_like(losers, step, dtype=torch.int32)
        self._evicted_at[rows].scatter_(2, losers, when)
        if winners is not None:
            self._survivor[rows].scatter_(2, losers, winners.int())

    def record_prompt(self, rows: slice, kept: Tensor, survivors: Tensor | None, length: int) -> None:
        """Note the outcome of prefill "tree": whatever is not in `kept` went with the prompt's last token."""
        target = self._evicted_at[rows, :, :length]
        target.fill_(length - 1).scatter_(2, kept, KEPT)
        if survivors is not None:
            self._survivor[rows, :, :length] = survivors.int()

    def select(self, index: Tensor) -> None:
        """Keep, repeat or reorder batch rows."""
        self._evicted_at = self._evicted_at.index_select(0, index)
        self._survivor = self._survivor.index_select(0, index)
