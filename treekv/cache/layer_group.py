"""Layers that decode in step: one ledger keeps the books of all of them, once a step instead of once a layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from treekv.cache.ledger import Ledger, Places
from treekv.config import TreeKVConfig

if TYPE_CHECKING:
    from treekv.cache.layer import TreeKVLayer


class Group:
    """Successive layers with the same settings; they share a ledger as long as they lie on one device.

    The rows of the ledger are those of the batch in the first layer, then in the second, and so on. While a token is
    decoded each layer attends and hands in what its queries saw; after the last layer all of them evict together.

    Attributes:
        layers: the layers, in order.
        ledger: their books; None until the first key arrives.
    """

    def __init__(self, config: TreeKVConfig, layers: list[TreeKVLayer]) -> None:
        self.config = config
        self.layers = layers
        self.ledger: Ledger | None = None
        self._places: Places | None = None
        self._observed: list[Tensor] = []
        for place, layer in enumerate(layers):
            layer.group, layer.place = self, place

    def open_books(self, layer: TreeKVLayer, batch: int, heads: int, device: torch.device) -> None:
        """Called by each layer before its first token."""
        if self.ledger is not None and (self.ledger.device, self.ledger.heads) != (device, heads):
            rest = self.layers[layer.place :]
            del self.layers[layer.place :]
            self.ledger.select(torch.arange(len(self.layers) * batch))
            Group(self.config, rest).open_books(layer, batch, heads, device)
        elif self.ledger is None:
            numbers = [each.layer for each in self.layers for _ in range(batch)]
            self.ledger = Ledger(self.config, len(numbers), heads, device, numbers, layer.layers)

    def close_books(self) -> None:
        self.ledger, self._places, self._observed = None, None, []

    def select(self, index: Tensor) -> None:
        """Keep, repeat or reorder batch rows."""
        if self.ledger is not None:
            batch = len(self.ledger.held) // len(self.layers)
            first = torch.arange(len(self.layers), device=index.device)[:, None] * batch
            self.ledger.select((first + index).flatten())

    def begin(self, layer: TreeKVLayer) -> Places | None:
        """Where the single newcomers of a layer's rows go, if all layers can decode this token together."""
        assert self.ledger is not None
        if layer.place == 0:
            self._places, self._observed = None, []
            every = slice(0, len(self.ledger.held))
            policy = self.ledger.policy
            known = all(each.is_initialized for each in self.layers)  # and so on one device
            able = policy.takes_layers_together or not policy.depends_on_layer
            if known and able and self.ledger.in_step(every, 1):
                self._tidy()
                self._places = self.ledger.places(
                    every, 1, distance=any(each.rotary is not None for each in self.layers)
                )
        return None if self._places is None else self._places.of(layer.rows)

    def hand_in(self, layer: TreeKVLayer, observed: Tensor | None, queries: int) -> None:
        """What a layer's queries saw, summed over the `queries` of a KV head; with the last layer's the ledger makes
        its step."""
        assert self.ledger is not None and self._places is not None
        if observed is not None:
            self._observed.append(observed)
        if layer.place == len(self.layers) - 1:
            seen = torch.cat(self._observed) / queries if self._observed else None
            self.ledger.step(slice(0, len(self.ledger.held)), self._places, seen)
            self._places, self._observed = None, []

    def _tidy(self) -> None:
        """Blocks need more slots than single newcomers; give those back."""
        assert self.ledger is not None
        capacity = [most for most in self.ledger.capacity[:] if most is not None]
        if not capacity or self.ledger.slots <= max(*capacity, *self.ledger.held[:]) + 1:
            return
        self.ledger.close()
        for layer in self.layers:
            layer.compact()
        self.ledger.trim(max(layer.keys.shape[2] for layer in self.layers))
