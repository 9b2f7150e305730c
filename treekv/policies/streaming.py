"""Policy "streaming": StreamingLLM, the first tokens and a sliding window."""

from __future__ import annotations

import torch

from treekv.errors import TreeKVError
from treekv.policies.base import Policy
from treekv.policies.contest import NOTHING, Contest
from treekv.policies.scores import Prompt, Selection
from treekv.policies.settings import Settings


class Streaming(Policy):
    """Keep the first `sink_size` tokens and the last `cache_size - sink_size`, at rank positions.

    Paper: Xiao et al., "Efficient Streaming Language Models with Attention Sinks", ICLR 2024
    (arXiv 2309.17453). Acts in both stages. Deviates in nothing for `sink_size` 4, the published setting.
    """

    name = "streaming"
    title = "StreamingLLM"
    by = NOTHING

    def default_recent_size(self, cache_size: int, sink_size: int) -> int:
        return max(cache_size - sink_size, 0)

    def check(self, settings: Settings) -> None:
        if settings.sink_size >= settings.cache_size:
            raise TreeKVError(
                f"sink_size must be smaller than cache_size ({settings.cache_size}), got {settings.sink_size}"
            )
        if settings.region_size != 0:
            raise TreeKVError(
                f"recent_size must be {settings.cache_size - settings.sink_size} (cache_size - sink_size) for policy "
                f"'streaming', which has no tree region, got {settings.recent_size}; leave it out to get that"
            )

    def contest(self, settings: Settings, capacity: int) -> Contest:
        return Contest(self.by, first=settings.sink_size, width=1)

    def select_prompt(self, settings: Settings, prompt: Prompt) -> Selection:
        positions = torch.arange(prompt.length, device=prompt.device)
        window_start = prompt.length - (settings.cache_size - settings.sink_size)
        kept = positions[(positions < settings.sink_size) | (positions >= window_start)]
        return Selection(kept[None, None], None)
