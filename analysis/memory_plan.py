"""How large a cache can be: the tokens that fit into a memory for so many users at once.

    sizes = model_sizes(config)                          # of transformers; no weights are read
    found = plan(sizes, memory=24e9 - sizes.weight_bytes(), users=16, context=32_768)
    found.config                                         # the largest settings that fit

The bytes are those of `analysis.cache_bytes`.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from transformers import AutoModelForCausalLM, DynamicCache

from analysis.captures.forward_pass import CacheLayer
from analysis.memory_size import Sizes, cache_bytes
from analysis.units import format_bytes
from treekv.attention import interface
from treekv.attention.supported import full_attention_layers
from treekv.config import TreeKVConfig
from treekv.errors import TreeKVError

STEP: Final = 8  # tokens between two sizes that are tried
LEAST: Final = 16
MOST_USERS: Final = 1_000_000
_UNITS: Final = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


@dataclass(frozen=True)
class ModelSizes:
    """What the memory of a model depends on.

    Attributes:
        model_layers: the layers of its cache, as `Capture.model_layers` has them.
        kv_heads, query_heads, head_dim: KV heads and query heads of a layer, channels of a key.
        parameters: how many numbers its weights are.
    """

    model_layers: list[CacheLayer]
    kv_heads: int
    query_heads: int
    head_dim: int
    parameters: int

    def weight_bytes(self, dtype: str = "bfloat16") -> int:
        itemsize: int = getattr(torch, dtype).itemsize
        return self.parameters * itemsize


@dataclass(frozen=True)
class Plan:
    """The largest cache that fits.

    Attributes:
        config: the settings; policy "full" where the whole context fits.
        request_bytes: keys and values of one request at the end of its context.
        full_bytes: those of the full cache.
        users_full: how many users the memory has room for with the full cache.
    """

    config: TreeKVConfig
    request_bytes: int
    full_bytes: int
    users_full: int


def model_sizes(config: Any) -> ModelSizes:
    """The sizes of a model from its configuration in transformers alone, by a model whose tensors have no content.

    Raises:
        TreeKVError: a model that a `TreeKVCache` refuses.
    """
    config = copy.deepcopy(config)
    config._attn_implementation = interface.NAME  # with which it would be loaded
    full = full_attention_layers(config)
    with torch.device("meta"), torch.no_grad():
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
        cache = DynamicCache(config=config)
        model(torch.zeros(1, 1, dtype=torch.long), past_key_values=cache)
    seen: list[Any] = list(cache.layers)
    layers = [
        CacheLayer(number, _channels(layer), getattr(layer, "sliding_window", None))
        for number, layer in enumerate(seen)
        if layer.keys is not None
    ]
    kv_heads, head_dim = (int(seen[full[0]].keys.shape[axis]) for axis in (1, 3))
    query_heads = int(config.get_text_config().num_attention_heads)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return ModelSizes(layers, kv_heads, query_heads, head_dim, parameters)


def _channels(layer: Any) -> int:
    return int(layer.keys.shape[1] * layer.keys.shape[3] + layer.values.shape[1] * layer.values.shape[3])


def plan(
    sizes: Sizes,
    *,
    memory: float,
    users: int = 1,
    context: int = 32_768,
    dtype: str = "bfloat16",
    make: Callable[[int], TreeKVConfig] | None = None,
) -> Plan:
    """The largest cache of which `users` fit into the memory at the end of their contexts.

    Args:
        sizes: of the model, from `model_sizes` or a capture.
        memory: bytes for keys and values, without weights and activations.
        users: requests at once, each with a cache of its own.
        context: tokens of a request, prompt and answer together.
        dtype: of keys and values.
        make: the settings for a number of tokens; those of policy "tree" that reads a prompt in blocks by default.

    Raises:
        TreeKVError: a number out of range, or a memory that is too small for the smallest cache.
    """
    if not 1 <= users <= MOST_USERS:
        raise TreeKVError(f"users must be between 1 and {MOST_USERS:,}, got {users:,}")
    if not memory > 0:
        raise TreeKVError(f"memory must be more than 0 bytes, got {memory:g}")
    make = make or (lambda size: TreeKVConfig(cache_size=size, prefill="stream"))

    def needed(config: TreeKVConfig) -> int:
        return cache_bytes(sizes, config, context, dtype=dtype)

    every = TreeKVConfig(policy="full")
    whole = needed(every)
    if users * whole <= memory:
        return Plan(every, whole, whole, int(memory // whole))
    low, high = LEAST // STEP, max(context // STEP, LEAST // STEP + 1)  # fits at low, not at high
    least = needed(make(LEAST))
    if users * least > memory:
        raise TreeKVError(
            f"{format_bytes(memory)} are too little: {users:,} {'cache' if users == 1 else 'caches'} of {LEAST} tokens "
            f"take {format_bytes(users * least)}; plan for fewer users or more memory"
        )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if users * needed(make(middle * STEP)) <= memory else (low, middle)
    config = make(low * STEP)
    return Plan(config, needed(config), whole, int(memory // whole))


def read_bytes(words: str) -> int:
    """Bytes from words such as "24GB", "512 MB" or "16GiB".

    Raises:
        TreeKVError: these are none.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?\s*", words, re.IGNORECASE)
    number = float(found[1]) * _UNITS[(found[2] or "").lower()] if found else 0.0
    if not 0 < number < 1e18:
        raise TreeKVError(f"memory must be a size such as 24GB or 512MB, got {words!r}")
    return int(number)
