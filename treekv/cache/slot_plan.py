"""Where the new tokens of a step are stored."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
from torch import Tensor

from treekv.cache.observation import Observation

GROWTH = 64  # slots are added this many at a time until the capacity and the new tokens fit


class SlotPlan(NamedTuple):
    """The slots of q new tokens, and how far every slot is from them.

    Attributes:
        slots: LongTensor [rows, heads, q], one for each new token.
        used: how many slots have been used, these included.
        distance: LongTensor [rows, heads, used], of each of these slots, ranks before the last new token, or with
            compressed positions the distance at which it is seen from there; negative where a slot is free. None if it
            is not needed.
        all_used: whether none of the `used` slots is free.
        padded_capacity: how many slots to allocate, `used` or more.
        lookup: with `mask`, `distance` with 0 for free slots.
        mask: of one new token, if some slot is free: [rows, heads, 1, used], what is added to logits, minus infinity
            where a slot is free.
    """

    slots: Tensor
    used: int
    distance: Tensor | None
    all_used: bool
    padded_capacity: int
    lookup: Tensor | None = None
    mask: Tensor | None = None

    def with_mask(self, dtype: torch.dtype) -> SlotPlan:
        """The same with the mask, so that layers that decode together need not each make it."""
        if self.all_used or self.distance is None:
            return self
        mask = torch.zeros_like(self.distance, dtype=dtype).masked_fill_(self.distance < 0, float("-inf"))
        return self._replace(lookup=self.distance.clamp(min=0), mask=mask[:, :, None])

    def kept(self) -> SlotPlan:
        """The same after the ledger's next step, which changes the tensor of slots."""
        return self._replace(slots=self.slots.clone())

    def split(self, rows: list[int]) -> list[SlotPlan]:
        """The same for the first so many rows, for as many of the next, and so on."""
        none = itertools.repeat(None)
        tensors = (self.slots, self.distance, self.lookup, self.mask)
        parts = zip(*(none if tensor is None else tensor.split(rows) for tensor in tensors), strict=False)
        return [
            SlotPlan(slots, self.used, distance, self.all_used, self.padded_capacity, lookup, mask)
            for slots, distance, lookup, mask in parts
        ]

    def within(self, used: int) -> SlotPlan:
        """The same of rows that have used only the first `used` slots."""
        distance, lookup, mask = (
            None if tensor is None else tensor[..., :used] for tensor in (self.distance, self.lookup, self.mask)
        )
        slots = padded_capacity(used, None)
        return self._replace(used=used, padded_capacity=slots, distance=distance, lookup=lookup, mask=mask)


class TokenPlan(NamedTuple):
    """How some heads of a row take one new token: its slots, how many real tokens the row has read before it, what is
    recorded of the weights, and a limit of distances."""

    slots: SlotPlan
    seen: int
    observation: Observation | None
    table_size: int


def padded_capacity(tokens: int, most: int | None) -> int:
    """How many slots to allocate for `tokens`: a multiple of GROWTH, but not more than `most`, unless `tokens` is."""
    target = -(-tokens // GROWTH) * GROWTH
    return target if most is None else max(min(target, most), tokens)
