"""Several caches as the rows of one batch, so that a model reads its weights once for all of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache

from treekv import TreeKVCache
from treekv.attention.interface import AttentionCall, attach_handler, handler_of
from treekv.attention.supported import full_attention_layers
from treekv.cache.hybrid_layer import attention_of, with_attention
from treekv.cache.layer import TreeKVLayer
from treekv.cache.split_layer import SplitLayer
from treekv.transformers_releases import CacheLayer


class RowCaches(Cache):
    """A cache for a batch in which row i is answered by `caches[i]`, each made for a batch of one.

    Settings may differ in everything. Layers with a sliding window, which no setting changes, hold all rows together.
    """

    def __init__(self, caches: list[TreeKVCache], model_config: Any) -> None:
        layers = DynamicCache(config=model_config).layers
        for number in full_attention_layers(model_config):
            own = _RowsLayer([attention_of(cache.layers[number]) for cache in caches])
            layers[number] = with_attention(layers[number], own)
        super().__init__(layers=layers)


class _RowsLayer(CacheLayer):
    def __init__(self, layers: list[TreeKVLayer | SplitLayer]) -> None:
        super().__init__()
        self.layers = layers

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.is_initialized = True  # each row's own layer does so with its first token

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        for row, layer in enumerate(self.layers):
            marked, _ = layer.update(key_states[row : row + 1], value_states[row : row + 1])
            assert handler_of(marked) is layer
        return attach_handler(key_states, self), value_states

    def attend(self, call: AttentionCall) -> Tensor:
        outputs = []
        for row, layer in enumerate(self.layers):
            one = slice(row, row + 1)
            positions = call.position_ids
            outputs.append(
                layer.attend(
                    call._replace(
                        query=call.query[one],
                        key=call.key[one],
                        value=call.value[one],
                        position_ids=positions if positions is None or len(positions) == 1 else positions[one],
                    )
                )
            )
        return torch.cat(outputs)

    def get_seq_length(self) -> int:
        return self.layers[0].get_seq_length()

    def mask_sizes(self, queries: int) -> tuple[int, int]:
        return self.get_seq_length() + queries, 0
