"""Where the new tokens of a step are stored."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

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
    """

    slots: Tensor
    used: int
    distance: Tensor | None
    all_used: bool
    padded_capacity: int

    def kept(self) -> SlotPlan:
        """The same after the ledger's next step, which changes the tensor of slots."""
        return self._replace(slots=self.slots.clone())

    def of(self, rows: slice) -> SlotPlan:
        """The same for some of the rows."""
        return self._replace(slots=self.slots[rows], distance=None if self.distance is None else self.distance[rows])


def padded_capacity(tokens: int, most: int | None) -> int:
    """How many slots to allocate for `tokens`: a multiple of GROWTH, but not more than `most`, unless `tokens` is."""
    target = -(-tokens // GROWTH) * GROWTH
    return target if most is None else max(min(target, most), tokens)
