"""Policy "openvino": what OpenVINO GenAI's continuous-batching pipeline evicts, whole blocks of its cache."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn

from treekv.errors import TreeKVError
from treekv.policies.base import Policy
from treekv.policies.contest import AVERAGE
from treekv.policies.ranking import lowest
from treekv.policies.scores import Evictions, Prompt, Scores, Selection
from treekv.policies.settings import Settings

BLOCK: Final = 32  # tokens of a cache block of the engine on a CPU; 16 on a GPU
POOLED: Final = 7  # a token's weight is the highest of so many, its own and those of the tokens after it
WINDOW: Final = 8  # queries at the end of a prompt that score it


class OpenVINO(Policy):
    """Evict the blocks of `interval` tokens with the lowest scores; all heads of a layer keep the same tokens.

    Engine: OpenVINO GenAI 2026.4, use_cache_eviction=True; rule from its source (cache_eviction.cpp and its tests) and
    the scores that its CPU plugin returns. `sink_size` is its start_size, `recent_size` its recent_size, `window_size`
    its snapkv_window_size, `interval` the tokens of a cache block, 32 on a CPU and 16 on a GPU. Its max_cache_size is
    the largest with which no more than `cache_size` tokens are held: a block is evicted when one more than fits is
    full, so up to a block less one token more are held in between. What a query adds to a token is the mean of its
    weights over all query heads, of which the highest of seven is taken: the token's and those of the six after it in
    the cache. `aggregation` "norm_sum" divides a token's sum by the number of queries since it was cached, "sum" does
    not; a block's score is the sum over its tokens. Of equals the older block goes. Positions are the true ones,
    "original", by default.
    Acts while decoding: a prompt is attended to in full and held whole, scored by the sum of its last `window_size`
    queries (pooled then), until the first token after it has been read, too; then all that is too much goes at once.
    Prefill "stream" and "none" are ours.
    Deviates in one place: where the engine reads a prompt in several passes (of 256 tokens) and its last queries fall
    into two of them, it pools each part. KVCrush, ADAPTIVE_RKV and apply_rotation are not in this rule.
    """

    name = "openvino"
    title = "OpenVINO GenAI"
    options = ("aggregation", "interval")
    by = AVERAGE
    evicts_prompt = False
    budgets_per_layer = False
    budgets_per_head = False
    default_positions = "original"

    def default_sink_size(self) -> int:
        return BLOCK

    def default_recent_size(self, cache_size: int, sink_size: int) -> int:
        """Whole blocks next to half of the cache, so that one block at least can be evicted."""
        most = (cache_size + 1) // BLOCK - 1
        sinks = -(-sink_size // BLOCK)
        return max(min(most // 2 - sinks, most - sinks - 1), 1) * BLOCK

    def default_window_size(self, block_size: int) -> int:
        return WINDOW

    def default_interval(self, cache_size: int) -> int:
        return BLOCK

    def max_cache_size(self, settings: Settings) -> int:
        """The engine's setting of that name: what is left when a block was evicted."""
        return (settings.cache_size + 1) // settings.interval * settings.interval - settings.interval

    def capacity(self, settings: Settings) -> int:
        return self.max_cache_size(settings) + settings.interval - 1

    def eviction_count(self, settings: Settings, excess: int) -> int:
        return -(-excess // settings.interval) * settings.interval

    def check(self, settings: Settings) -> None:
        block = settings.interval
        for field in ("sink_size", "recent_size"):
            size = getattr(settings, field)
            if size < block or size % block:
                raise TreeKVError(
                    f"{field} must be one or more whole blocks of {block} tokens for policy {self.name!r}, got {size}"
                )
        least = settings.sink_size + settings.recent_size + 2 * block - 1
        if settings.cache_size < least:
            raise TreeKVError(
                f"cache_size must be at least {least} for policy {self.name!r}: {settings.sink_size} sinks, "
                f"{settings.recent_size} recent tokens, a block of {block} to choose from and up to {block - 1} tokens "
                f"until it is evicted; got {settings.cache_size}"
            )

    def nearest(self, settings: Settings) -> dict[str, Any]:
        """Sinks and recent tokens in whole blocks of 32: up, but so that one block at least can be evicted. The cache
        is larger only where these do not fit. As in the engine a prompt is held whole, and positions are true.
        """
        most = (settings.cache_size + 1) // BLOCK - 1
        sinks = max(-(-settings.sink_size // BLOCK), 1)
        recent = max(min(-(-settings.recent_size // BLOCK), most - sinks - 1), 1)
        least = (sinks + recent + 2) * BLOCK - 1
        added_up = settings.aggregation if settings.policy == self.name else "norm_sum"
        changes = {"cache_size": least} if settings.cache_size < least else {}
        return changes | {
            "sink_size": sinks * BLOCK,
            "recent_size": recent * BLOCK,
            "interval": BLOCK,
            "aggregation": "sum" if settings.policy == "h2o" else added_up,
            "prefill": "once",
            "positions": "original",
        }

    def observe(self, weights: Tensor) -> Tensor:
        common = weights.mean(1, keepdim=True)
        ahead = nn.functional.pad(common, (0, POOLED - 1))  # weights are not negative, so zeros win nothing
        return ahead.unfold(-1, POOLED, 1).amax(-1).expand_as(weights)

    def evict(self, settings: Settings, scores: Scores, count: int) -> Evictions:
        block, first = settings.interval, settings.sink_size
        # Full blocks only: the newest of them are recent, and what follows them is not full yet.
        last = scores.held // block * block - settings.recent_size
        ranks = slice(first, last)
        values = scores.total(ranks) if settings.aggregation == "sum" else scores.average(ranks)
        by_block = values[:, :1].unflatten(2, (-1, block)).sum(-1)  # the same in all heads
        chosen = lowest(by_block, count // block, 0)[..., None] * block
        losers = (chosen + torch.arange(first, first + block, device=scores.device)).flatten(2)
        return Evictions(losers.expand(*scores.shape, count))

    def select_prompt(self, settings: Settings, prompt: Prompt) -> Selection:
        raise RuntimeError("policy 'openvino' is never asked to select from a prompt")
