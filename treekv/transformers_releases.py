"""What differs between releases of transformers 5.

Where a kind of cache layer is missing, no layer is of that kind: a class that nothing is an instance of stands for it.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Final

from torch import Tensor
from transformers import cache_utils
from transformers.cache_utils import CacheLayerMixin

if TYPE_CHECKING:
    from transformers.cache_utils import (
        DummyLayer,
        DynamicIndexedLayer,
        LinearAttentionAndFullAttentionLayer,
        LinearAttentionAndSlidingWindowAttentionLayer,
        LinearAttentionLayer,
    )
else:

    def _kind(name: str) -> Any:
        return getattr(cache_utils, name, None) or type(name, (), {})

    DummyLayer = _kind("DummyLayer")
    DynamicIndexedLayer = _kind("DynamicIndexedLayer")
    LinearAttentionAndFullAttentionLayer = _kind("LinearAttentionAndFullAttentionLayer")
    LinearAttentionAndSlidingWindowAttentionLayer = _kind("LinearAttentionAndSlidingWindowAttentionLayer")
    LinearAttentionLayer = _kind("LinearAttentionLayer")


class CacheLayer(CacheLayerMixin):
    """A layer of a cache that any number of tokens may pass through, as every release asks it."""

    @abstractmethod
    def mask_sizes(self, queries: int) -> tuple[int, int]:
        """The number of keys that so many new tokens see, and the position of the first of them."""

    def get_mask_sizes(self, query_length: int | Tensor) -> tuple[int, int]:
        return self.mask_sizes(query_length if isinstance(query_length, int) else query_count(query_length))

    def get_max_length(self) -> int:
        return -1

    def get_max_cache_shape(self) -> int:
        """What `get_max_length` was called before."""
        return -1


#: Whether caches have layers for states of linear attention and convolution; before, such models had their own caches.
HAS_STATES: Final = hasattr(cache_utils, "LinearAttentionLayer")
_STATE_SIZES: Final = ("mamba_d_state", "state_size", "ssm_state_size")
_ATTENTION: Final = ("attention", "full_attention", "sliding_attention", "chunked_attention")


def has_states(config: Any) -> bool:
    """Whether some of the layers have a state of linear attention or convolution, by their types and sizes."""
    types = getattr(config, "layers_block_type", None) or getattr(config, "layer_types", None) or ()
    return any(kind not in _ATTENTION for kind in types) or any(hasattr(config, size) for size in _STATE_SIZES)


def query_count(positions: Tensor) -> int:
    """The number of new tokens, of which earlier releases give the positions."""
    return int(positions.shape[-1])


def layer_configs(config: Any) -> list[Any]:
    """The configuration of each layer; in earlier releases the model's stands for all."""
    return getattr(config, "per_layer_config", None) or [config] * config.num_hidden_layers


__all__ = [
    "HAS_STATES",
    "CacheLayer",
    "DummyLayer",
    "DynamicIndexedLayer",
    "LinearAttentionAndFullAttentionLayer",
    "LinearAttentionAndSlidingWindowAttentionLayer",
    "LinearAttentionLayer",
    "has_states",
    "layer_configs",
    "query_count",
]
