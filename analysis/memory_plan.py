"""How large a cache can be: the tokens that fit into a memory for so many users at once.

    sizes = model_sizes(config)                          # of transformers; no weights are read
    found = plan(sizes, memory=24e9 - sizes.weight_bytes(), users=16, context=32_768)
    found.config                                         # the largest settings that fit

The bytes are those of `analysis.cache_bytes`.
"""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from transformers import AutoModelForCausalLM, DynamicCache

from analysis.captures.backward_pass import KEPT_AT_MOST, LOGITS_AT_ONCE
from analysis.captures.forward_pass import CacheLayer
from analysis.memory_size import Sizes, cache_bytes
from analysis.units import format_bytes
from treekv.attention import interface
from treekv.attention.supported import full_attention_layers
from treekv.config import TreeKVConfig
from treekv.errors import TreeKVError
from treekv.transformers_releases import LinearAttentionLayer

STEP: Final = 8  # tokens between two sizes that are tried
LEAST: Final = 16
MOST_TRIED: Final = 4096  # tokens up to which the smallest cache that a policy accepts is looked for
FLOAT, HALF = 4, 2  # bytes of a number in memory and in the file of a capture; of gradients HALF in both
ACTIVATIONS: Final = 16  # numbers that a layer keeps for the backward pass, for each channel of its queries
LIBRARIES: Final = 600 * 10**6  # bytes of torch and transformers themselves
MOST_USERS: Final = 1_000_000
LEAST_MEMORY: Final = 10**6  # bytes; less without a unit is a unit that was forgotten
MOST_CONTEXT: Final = 100_000_000
_UNITS: Final = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


@dataclass(frozen=True)
class ModelSizes:
    """What the memory of a model depends on.

    Attributes:
        model_layers: the layers of its cache, as `Capture.model_layers` has them.
        kv_heads, query_heads, head_dim: KV heads and query heads of a layer, channels of a key.
        parameters: how many numbers its weights are.
        states: layers that keep a state of linear attention or convolution, whose bytes are not counted.
    """

    model_layers: list[CacheLayer]
    kv_heads: int
    query_heads: int
    head_dim: int
    parameters: int
    states: int = 0

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
        TreeKVError: a model that a `TreeKVCache` refuses, or that cannot be run without weights.
    """
    config = copy.deepcopy(config)
    config._attn_implementation = interface.NAME  # with which it would be loaded
    full = full_attention_layers(config)
    with torch.device("meta"), torch.no_grad():
        # In bfloat16 whatever the configuration says: experts in float32 are multiplied by code that needs contents.
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.bfloat16)
        cache = DynamicCache(config=config)
        try:
            model(torch.zeros(1, 1, dtype=torch.long), past_key_values=cache)
        except NotImplementedError as error:  # a model whose experts or adapters are chosen by contents
            raise TreeKVError(
                f"the sizes of a {config.model_type!r} model show only when it computes with its weights, which are "
                "not read here; plan from a capture of it on the page Compare"
            ) from error
    seen: list[Any] = list(cache.layers)
    layers = [
        CacheLayer(number, _channels(layer), getattr(layer, "sliding_window", None))
        for number, layer in enumerate(seen)
        if getattr(layer, "keys", None) is not None
    ]
    kv_heads, head_dim = (int(seen[full[0]].keys.shape[axis]) for axis in (1, 3))
    query_heads = int(config.get_text_config().num_attention_heads)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    states = sum(isinstance(layer, LinearAttentionLayer) for layer in seen)
    return ModelSizes(layers, kv_heads, query_heads, head_dim, parameters, states)


def capture_bytes(sizes: ModelSizes, tokens: int, *, gradients: bool = True) -> tuple[int, int]:
    """About the most bytes of memory that capturing a text takes, with a model in float32, and those of the file.

    Counted are the weights, the capture, and with `gradients` the logits and the activations of a backward pass, which
    keeps at most a gigabyte of them and computes the others again. An actual capture with gradients measures what it
    needs before it begins, and refuses what does not fit.

    Args:
        sizes: of the model.
        tokens: the length of the text.
        gradients: whether the gradient of the loss is captured.
    """
    full = [layer for layer in sizes.model_layers if layer.window is None]
    queries = sizes.query_heads * sizes.head_dim
    states = tokens * (sum(layer.channels for layer in full) + len(full) * queries)
    gradient = HALF * tokens * len(full) * queries if gradients else 0
    peak = LIBRARIES + sizes.weight_bytes("float32") + FLOAT * states + gradient
    if gradients:
        peak += min(KEPT_AT_MOST, FLOAT * tokens * len(sizes.model_layers) * ACTIVATIONS * queries)
        peak += 4 * FLOAT * LOGITS_AT_ONCE
    return peak, HALF * states + gradient


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
        TreeKVError: a number out of range, or a memory that is too small for the smallest cache that `make` accepts.
    """
    if not 1 <= users <= MOST_USERS:
        raise TreeKVError(f"users must be between 1 and {MOST_USERS:,}, got {users:,}")
    if not 1 <= context <= MOST_CONTEXT:
        raise TreeKVError(f"context must be between 1 and {MOST_CONTEXT:,} tokens, got {context:,}")
    if not memory > 0:
        raise TreeKVError(f"memory must be more than 0 bytes, got {memory:g}")
    make = make or (lambda size: TreeKVConfig(cache_size=size, prefill="stream"))

    def needed(config: TreeKVConfig) -> int:
        return cache_bytes(sizes, config, context, dtype=dtype)

    every = TreeKVConfig(policy="full")
    whole = needed(every)
    if users * whole <= memory:
        return Plan(every, whole, whole, int(memory // whole))
    smallest = _smallest(make)
    least = needed(make(smallest))
    if users * least > memory:
        evicts = make(smallest).policy != "full"
        raise TreeKVError(
            f"{format_bytes(memory)} are too little: {users:,} {'' if evicts else 'full '}"
            f"{'cache' if users == 1 else 'caches'} of {smallest if evicts else context:,} tokens "
            f"{'takes' if users == 1 else 'take'} {format_bytes(users * least)}; plan for fewer users"
            f"{' or more memory' if evicts else ', more memory or a policy that evicts'}"
        )
    low, high = smallest // STEP, max(context // STEP, smallest // STEP + 1)  # fits at low, not at high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if users * needed(make(middle * STEP)) <= memory else (low, middle)
    config = make(low * STEP)
    return Plan(config, needed(config), whole, int(memory // whole))


def _smallest(make: Callable[[int], TreeKVConfig]) -> int:
    """The smallest of the sizes that are tried at which the settings are possible."""
    for size in range(LEAST, MOST_TRIED, STEP):
        with contextlib.suppress(TreeKVError):
            make(size)
            return size
    make(MOST_TRIED)  # says what is wrong, unless this one is possible
    return MOST_TRIED


def read_bytes(words: str) -> int:
    """Bytes from words such as "24GB", "512 MB" or "16GiB".

    Raises:
        TreeKVError: these are none.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?)?(b?)\s*", words, re.IGNORECASE)
    number = float(found[1]) * _UNITS[(found[2] or "").lower()] if found else 0.0
    if not 0 < number < 1e18:
        raise TreeKVError(f"memory must be a size such as 24 GB, 16.5 GB or 512 MB, got {words!r}")
    if number < LEAST_MEMORY and found and not (found[2] or found[3]):
        raise TreeKVError(f"memory {words.strip()!r} has no unit, which makes it bytes; write 24 GB or 512 MB")
    return int(number)
