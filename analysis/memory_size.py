"""The bytes of keys and values of a cache, computed without running a model.

    cache_bytes(captured, config, tokens=131_072, batch=8, dtype="bfloat16")     # what cache.nbytes would be

The cache's own ledger decides how many tokens of a prompt stay, and slots are allocated in the same steps. All layers
of the model count, including those that were not captured and those with a sliding window.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, Protocol

import numpy as np
import torch
import xarray as xr

from analysis.captures.data import Capture
from analysis.captures.forward_pass import CacheLayer
from treekv import policies
from treekv.cache.ledger import Ledger
from treekv.cache.slot_plan import padded_capacity
from treekv.config import TreeKVConfig
from treekv.errors import TreeKVError
from treekv.policies.ranking import at_ranks

LONG: Final = 4  # times the cache size: a longer prompt does not take more slots
DTYPES: Final = ("float32", "bfloat16", "float16")


class Sizes(Protocol):
    """What bytes depend on: a `Capture`, or the sizes of a model."""

    @property
    def model_layers(self) -> list[CacheLayer]: ...

    @property
    def kv_heads(self) -> int: ...

    @property
    def query_heads(self) -> int: ...

    @property
    def head_dim(self) -> int: ...


def check_dtype(dtype: str) -> None:
    """Raise TreeKVError for a number type that keys and values cannot have here."""
    if dtype not in DTYPES:
        raise TreeKVError(f"dtype must be one of {', '.join(map(repr, DTYPES))}, got {dtype!r}")


def cache_bytes(
    captured: Sizes,
    config: TreeKVConfig,
    tokens: int,
    *,
    prompt: int | None = None,
    batch: int = 1,
    dtype: str = "bfloat16",
) -> int:
    """Bytes of keys and values, and of the queries that some policies look at, of a cache with these settings after
    `tokens` tokens.

    Equals `TreeKVCache.nbytes` of a real run: every full-attention layer or head by its budget, whether it was captured
    or not, and every layer with a sliding window by at most this window. For files from before captures recorded the
    layers of their model, only the captured layers are counted (`captured.model_layers` lists them). With
    `share_heads` it is what equal shares take: which head keeps how much depends on the text, and since slots are
    allocated in steps, head by head, a real run takes up to one step a head more.

    Args:
        captured: for the numbers of layers, heads and channels; its text does not matter.
        config: the settings; policy "full" gives the uncompressed cache (of full-attention layers).
        tokens: the length of the context, prompt and generated tokens together.
        prompt: how many of them are processed in the first call; all but the last when None.
        batch: rows of equal length.
        dtype: of keys and values: "float32", "bfloat16" or "float16".

    Raises:
        TreeKVError: a number or type that is out of range, or budgets for another number of layers or KV heads.
    """
    if tokens < 1 or batch < 1:
        raise TreeKVError(f"tokens and batch must be at least 1, got {tokens} and {batch}")
    prompt = max(tokens - 1, 1) if prompt is None else prompt
    if not 1 <= prompt <= tokens:
        raise TreeKVError(f"prompt must be between 1 and the {tokens} tokens, got {prompt}")
    check_dtype(dtype)
    every = captured.model_layers
    full = [layer for layer in every if layer.window is None]
    policy, group = policies.of(config), captured.query_heads // captured.kv_heads
    slots: dict[tuple[TreeKVConfig, int], int] = {}
    # A sliding layer keeps the tokens that the next token sees, without that token itself.
    total = sum(min(tokens, layer.window - 1) * layer.channels for layer in every if layer.window is not None)
    for number, (heads, layer) in enumerate(zip(config.per_head(len(full), captured.kv_heads), full, strict=True)):
        for own in heads:
            key = (own, number if policy.depends_on_layer else 0)
            if key not in slots:
                slots[key] = _slots(own, number, len(full), tokens, prompt)
            total += slots[key] * layer.channels // captured.kv_heads
            if policy.evicts_after(own):
                total += policy.last_queries(own) * captured.head_dim * group
    itemsize: int = getattr(torch, dtype).itemsize
    return total * batch * itemsize


def cache_bytes_by_context(
    captured: Capture,
    configs: Mapping[str, TreeKVConfig],
    contexts: Sequence[int],
    *,
    batch: int = 1,
    dtype: str = "bfloat16",
) -> xr.DataArray:
    """`cache_bytes` of several settings over several lengths of context: int64 (policy, context).

    attrs: batch, dtype and layers (the number of layers counted). Raises TreeKVError as `cache_bytes` does, and for
    no settings or contexts.
    """
    if not configs or not contexts:
        raise TreeKVError("give at least one setting and one context length")
    values = [
        [cache_bytes(captured, config, n, batch=batch, dtype=dtype) for n in contexts] for config in configs.values()
    ]
    return xr.DataArray(
        np.array(values, dtype=np.int64),
        dims=("policy", "context"),
        coords={"policy": list(configs), "context": list(contexts)},
        name="memory",
        attrs={"batch": batch, "dtype": dtype, "layers": len(captured.model_layers), "units": "bytes"},
    )


def _slots(config: TreeKVConfig, layer: int, layers: int, tokens: int, prompt: int) -> int:
    """Slots of one layer and KV head at the end."""
    ledger = Ledger(config, 1, 1, layer=layer, layers=layers)
    policy, capacity = ledger.policy, ledger.capacity[0]
    if ledger.keeps_everything:
        return padded_capacity(tokens, None)
    if config.prefill == "stream":
        assert capacity is not None  # policies that do not evict during decoding do not stream
        kept, slots = min(prompt, capacity), _streamed(config, capacity, prompt)
        if tokens > prompt:
            slots = min(slots, capacity + 1)  # the last block counts as finished
    else:
        kept = prompt
        if ledger.reduces_prompt(prompt):
            # The number of kept tokens of a long prompt depends on its length only through the last, incomplete block.
            enough = LONG * config.cache_size
            asked = min(prompt, enough + (prompt - enough) % math.lcm(config.block_size, config.interval))
            sums = torch.zeros(1, 1, asked) if policy.uses_attention else None
            counts = None if sums is None else torch.ones(1, 1, asked)
            future = torch.zeros(1, 1, asked) if policy.scores_future(config) else None
            contents = _Nothing(asked, policy.last_queries(config)) if policy.reads_contents else None
            selection = ledger.choose_prompt(ledger.prompt(slice(0, 1), asked, sums, counts, future, contents))
            kept = prompt if selection is None else selection.kept.shape[2]
        if config.prefill == "none" and capacity is not None:
            capacity = max(capacity, prompt)
        slots = padded_capacity(kept, None) if capacity is None else padded_capacity(kept + 1, capacity + 1)
    if tokens == prompt:
        return slots
    if capacity is not None and kept > capacity:
        return capacity + 1  # the first token after a prompt that was held whole frees the rest
    last = kept + tokens - prompt
    return max(
        slots,
        padded_capacity(last, None) if capacity is None else padded_capacity(min(last, capacity + 1), capacity + 1),
    )


class _Nothing(NamedTuple):
    """Keys, values and queries whose number is all that matters."""

    tokens: int
    queries: int

    def keys(self, ranks: slice | torch.Tensor | None = None) -> torch.Tensor:
        keys = torch.zeros(1, 1, self.tokens, 2)
        return keys if ranks is None else at_ranks(keys, ranks)

    def values(self) -> torch.Tensor:
        return self.keys()

    def logits(self) -> torch.Tensor:
        return torch.zeros(1, 1, 1, self.queries, self.tokens)


def _streamed(config: TreeKVConfig, capacity: int, prompt: int) -> int:
    """Slots after a prompt that was processed in blocks; an incomplete block keeps its evicted tokens for now."""
    slots, size = 0, config.block_size
    for first in range(0, min(prompt, capacity + size), size):
        q = min(size, prompt - first)
        slots = min(max(slots, padded_capacity(min(first, capacity) + q, capacity + q)), capacity + 1)
    last = prompt % size
    return capacity + last if last and prompt > capacity else slots
