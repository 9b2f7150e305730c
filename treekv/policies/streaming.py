"""Policy "streaming": StreamingLLM, the first tokens and a sliding window."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from treekv.errors import TreeKVError
from treekv.policies.base import Evictions, Policy, Prompt, Scores, Selection

if TYPE_CHECKING:
    from treekv.config import TreeKVConfig


class Streaming(Policy):
    """Keep the first `sink_size` tokens and the last `cache_size - sink_size`, at rank positions.

    Paper: Xiao et al., "Efficient Streaming Language Models with Attention Sinks", ICLR 2024
    (arXiv 2309.17453). Acts in both stages. Deviates in nothing for `sink_size` 4, the published setting.
    """

    name = "streaming"
    uses_attention = False

    def default_recent_size(self, cache_size: int, sink_size: int) -> int:
        return max(cache_size - sink_size, 0)

    def check(self, config: TreeKVConfig) -> None:
        if config.sink_size >= config.cache_size:
            raise TreeKVError(
                f"sink_size must be smaller than cache_size ({config.cache_size}), got {config.sink_size}"
            )
        if config.region_size != 0:
            raise TreeKVError(
                f"recent_size must be {config.cache_size - config.sink_size} (cache_size - sink_size) for policy "
                f"'streaming', which has no tree region, got {config.recent_size}; leave it out to get that"
            )

    def evict(self, config: TreeKVConfig, scores: Scores, count: int) -> Evictions:
        losers = torch.arange(config.sink_size, config.sink_size + count, device=scores.device)
        return Evictions(losers.expand(*scores.shape, count).contiguous())

    def select_prompt(self, config: TreeKVConfig, prompt: Prompt) -> Selection:
        positions = torch.arange(prompt.length, device=prompt.device)
        window_start = prompt.length - (config.cache_size - config.sink_size)
        kept = positions[(positions < config.sink_size) | (positions >= window_start)]
        return Selection(kept[None, None], None)
