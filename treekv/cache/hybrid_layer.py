"""A layer with full attention and, beside it, a state of linear attention or convolution."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from treekv.transformers_releases import LinearAttentionAndFullAttentionLayer, LinearAttentionLayer


class HybridLayer(LinearAttentionAndFullAttentionLayer):
    """A layer whose attention is answered by another layer, and whose state is kept as transformers does.

    Args:
        number_of_states: of linear attention or convolution.
        attention: a cache layer that computes attention.
    """

    def __init__(self, number_of_states: int, attention: Any) -> None:
        super().__init__(number_of_states)
        self.attention = attention

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        return self.attention.update(key_states, value_states, *args, **kwargs)

    def get_seq_length(self) -> int:
        return self.attention.get_seq_length()

    def get_mask_sizes(self, query_length: int | Tensor) -> tuple[int, int]:
        return self.attention.get_mask_sizes(query_length)

    def get_max_length(self) -> int:
        return self.attention.get_max_length()

    def reset(self) -> None:
        LinearAttentionLayer.reset(self)
        self.attention.reset()

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        LinearAttentionLayer.reorder_cache(self, beam_idx)
        self.attention.reorder_cache(beam_idx)

    def offload(self) -> None:
        LinearAttentionLayer.offload(self)
        self.attention.offload()

    def prefetch(self) -> None:
        LinearAttentionLayer.prefetch(self)
        self.attention.prefetch()


def with_attention(layer: Any, attention: Any) -> Any:
    """What to put in place of `layer` of transformers' own cache, so that `attention` answers its attention."""
    if isinstance(layer, LinearAttentionAndFullAttentionLayer):
        return HybridLayer(layer.number_of_states, attention)
    return attention


def attention_of(layer: Any) -> Any:
    """What answers the attention of a layer of a cache: the layer itself where it has nothing else."""
    return layer.attention if isinstance(layer, HybridLayer) else layer
