"""Slots of keys and values, with what a call needs to attend to them."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from treekv.attention.rotary import Rotary


class Step(NamedTuple):
    """A part of a call of a layer that others follow.

    Attributes:
        rows: rows of the batch; None for a step that only moves tokens to other slots.
        real: which columns of these rows are no padding, None for all.
        first, last: which of these columns it is about.
        what: computes the attention of new tokens with a layer, or where slots were reordered, the old number of each.
    """

    rows: slice | None
    real: slice | Tensor | None
    first: int
    last: int
    what: Any


class Slots:
    """The slots of a layer, or of some of its KV heads.

    Keys are stored as they arrive (positions="original") or unrotated, [batch, kv_heads, slots, head_dim]. A new token
    is written to a free slot and attended to there with all others; then a slot is freed, and nothing else moves.

    Attributes:
        queries: [batch, query_heads, n, head_dim], the last n of each row, stored as keys are, for a policy that looks
            at them; else None.
        scaling: the factor of their products.
        rotary: of the layer, if keys are stored unrotated.
        number, layers: the layer's place among the compressed layers of the model, and how many there are.
        head_numbers: of a part of a layer (see `SplitLayer`), the numbers of its heads, which are rows here: those of
            the first row of the batch, then of the second. None for a whole layer.
        followed: whether later layers of the model attend to the same keys and values.
    """

    keys: Tensor
    values: Tensor
    queries: Tensor | None

    def __init__(
        self, rotary: Rotary | None, number: int = 0, layers: int = 1, head_numbers: list[int] | None = None
    ) -> None:
        self.rotary, self.number, self.layers, self.head_numbers = rotary, number, layers, head_numbers
        self.queries, self.scaling = None, 1.0
        self.followed = False
        self._steps: list[Step] = []
        self._before: tuple[Tensor, Tensor] | None = None

    @property
    def batch(self) -> int:
        """Rows: those of the batch, or heads of them."""
        return self.keys.shape[0]

    @property
    def heads_as_rows(self) -> int:
        """Rows for each row of the batch."""
        return 1 if self.head_numbers is None else len(self.head_numbers)

    def rows_of(self, batch_rows: Tensor) -> Tensor:
        """The rows, LongTensor, that belong to rows of the batch."""
        n = self.heads_as_rows
        return batch_rows if n == 1 else (batch_rows[:, None] * n + torch.arange(n, device=batch_rows.device)).flatten()

    @property
    def slots(self) -> int:
        return self.keys.shape[2]

    def view(self, rows: slice) -> tuple[Tensor, Tensor]:
        """Keys and values of some rows."""
        if rows.stop - rows.start == self.batch:
            return self.keys, self.values
        return self.keys[rows], self.values[rows]

    def reserve(self, slots: int) -> None:
        """Have at least so many slots."""
        more = slots - self.slots
        if more > 0:
            self.keys, self.values = (nn.functional.pad(each, (0, 0, 0, more)) for each in (self.keys, self.values))

    def write(
        self, rows: slice, slots: Tensor, key: Tensor, value: Tensor, differentiable: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Put q tokens of some rows at `slots` LongTensor [rows, kv_heads, q]; returns `view(rows)`.

        If it is to be differentiable, the slots are copied, for what earlier tokens of the call attended to must
        remain; gradients then pass through the slots until the call ends.
        """
        index = slots[..., None]
        if differentiable:
            index = index.clone()  # the gradient needs it, and the ledger's changes
            self.keys = _scattered(self.keys, rows, index, key)
            self.values = _scattered(self.values, rows, index, value)
            return self.view(rows)
        if key.requires_grad or value.requires_grad:
            key, value = key.detach(), value.detach()
        keys, values = self.view(rows)
        places = index.expand(-1, -1, -1, key.shape[3])
        keys.scatter_(2, places, key)
        if value.shape[3] != key.shape[3]:
            places = index.expand(-1, -1, -1, value.shape[3])
        values.scatter_(2, places, value)
        return keys, values

    def remember(self, rows: slice, query: Tensor, most: int) -> None:
        """Cache the last `most` queries of some rows: `query` [rows, query_heads, q, head_dim] comes after those that
        are cached. Before there are so many, zeros come first."""
        if self.queries is None:
            self.queries = query.new_zeros((self.batch, query.shape[1], most, query.shape[3]))
        last = torch.cat([self.queries[rows], query.detach()], dim=2)[:, :, -most:]
        if last.shape[0] == self.batch:
            self.queries = last
        else:
            self.queries[rows] = last

    def fill(self, rows: slice, kept: Tensor, key: Tensor, value: Tensor, differentiable: bool = False) -> None:
        """Put the tokens at `kept` LongTensor [rows, kv_heads, k] of a prompt into the first k slots, in copies of them
        if it is to be differentiable."""
        if differentiable:
            self.keys, self.values = self.keys.clone(), self.values.clone()
        for stored, new in ((self.keys, key), (self.values, value)):
            stored[rows, :, : kept.shape[2]] = _chosen(new.detach(), kept)

    def reorder_slots(self, old: Tensor) -> None:
        """Keep some slots: LongTensor [batch, kv_heads, fewer slots], the present number of each."""
        if self._before is not None:  # else what happens to the slots happens before they are attended to
            self.record(Step(None, None, 0, 0, old))
        self.keys, self.values = _chosen(self.keys, old), _chosen(self.values, old)

    # ------------------------------------------------------------------ layers that follow

    def forget_call(self) -> None:
        """Forget the last call."""
        self._steps, self._before = [], None

    def keep_slots(self) -> None:
        """Remember what the slots hold before a call that may overwrite or move it, for layers that follow."""
        if self.followed:
            self._before = self.keys.clone(), self.values.clone()

    def record(self, step: Step) -> None:
        """Remember a part of a call, for layers that follow."""
        if self.followed:
            self._steps.append(step)

    def repeated(self) -> tuple[Slots, list[Step]]:
        """Slots with what these held before the last call, and the parts of this call.

        They are these themselves if the call has written a token to a free slot and moved nothing: writing it again
        changes nothing.
        """
        if self._before is None:
            return self, self._steps
        twin = Slots(self.rotary, self.number, self.layers, self.head_numbers)
        twin.keys, twin.values = (each.clone() for each in self._before)
        return twin, self._steps


def _scattered(stored: Tensor, rows: slice, index: Tensor, new: Tensor) -> Tensor:
    """A copy of `stored` with `new` in some rows at `index` LongTensor [rows, kv_heads, q, 1]."""
    part = stored[rows].scatter(2, index.expand(-1, -1, -1, new.shape[3]), new)
    return part if part.shape[0] == stored.shape[0] else stored.slice_scatter(part, 0, rows.start, rows.stop)


def _chosen(tensor: Tensor, slots: Tensor) -> Tensor:
    return tensor.gather(2, slots[..., None].expand(-1, -1, -1, tensor.shape[3]))
