"""A compressed layer of latent attention, which caches latents: keys and values are computed from them in each pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from treekv.attention.interface import AttentionCall, attach_to_all_made_of
from treekv.cache.layer import TreeKVLayer
from treekv.errors import TreeKVError


class LatentLayer(TreeKVLayer):
    """A layer whose slots hold latents, which all heads share, instead of keys, and the rotated parts of keys instead
    of values, as transformers caches them.

    The model computes keys and values from what `update` returns, of all slots and of the new tokens. Those of the
    slots exist until the call ends, and follow whatever happens to the slots meanwhile.
    """

    def __init__(self, number: int = 0, layers: int = 1) -> None:
        super().__init__(None, number, layers)
        self._expanded: tuple[Tensor, Tensor] | None = None
        self._new: tuple[Tensor, Tensor] | None = None  # the latents of the call in progress

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if key_states.shape[1] != 1:
            raise TreeKVError(
                f"layer {self.number} of the model caches {key_states.shape[1]} heads, not one latent that all heads "
                "share, as its kv_lora_rank says; this cannot be compressed"
            )
        self.expect(key_states, value_states)
        self._new = key_states, value_states
        latents = torch.cat([self.keys, key_states], dim=2)
        return attach_to_all_made_of(latents, self), torch.cat([self.values, value_states], dim=2)

    def attend(self, call: AttentionCall) -> Tensor:
        slots = self.slots
        self._expanded = call.key[:, :, :slots], call.value[:, :, :slots]
        try:
            return super().attend(
                call._replace(key=call.key[:, :, slots:], value=call.value[:, :, slots:], latents=self._new)
            )
        finally:
            self._expanded = self._new = None

    def reserve(self, slots: int) -> None:
        more = slots - self.slots
        super().reserve(slots)
        if more > 0 and self._expanded is not None:
            key, value = (nn.functional.pad(each, (0, 0, 0, more)) for each in self._expanded)
            self._expanded = key, value

    def write_new(
        self, rows: slice, slots: Tensor, key: Tensor, value: Tensor, latents: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Put q tokens at `slots` LongTensor [rows, 1, q]: their latents, and for this call their keys and values,
        [rows, heads, q, dim]; returns keys and values of all slots of these rows."""
        assert self._expanded is not None  # in a call
        self.write(rows, slots, *latents)
        index = slots[..., None]
        written = []
        for held, new in zip(self._expanded, (key, value), strict=True):
            index = index.expand(-1, new.shape[1], -1, -1)
            part = held[rows].scatter(2, index.expand(-1, -1, -1, new.shape[3]), new)
            written.append(
                part if part.shape[0] == held.shape[0] else held.slice_scatter(part, 0, rows.start, rows.stop)
            )
        self._expanded = written[0], written[1]
        return written[0][rows], written[1][rows]

    def reorder_slots(self, old: Tensor) -> None:
        super().reorder_slots(old)
        if self._expanded is not None:
            index = old[..., None]
            key, value = (each.gather(2, index.expand(-1, each.shape[1], -1, each.shape[3])) for each in self._expanded)
            self._expanded = key, value
