"""Policy "snapkv_decode": SnapKV's choice, made again and again while decoding."""

from __future__ import annotations

from typing import Final

from torch import Tensor

from treekv.policies.by_contents import MOST_AT_ONCE, ByContents, Candidates
from treekv.policies.pooling import smooth
from treekv.policies.settings import Settings

WINDOW: Final = 32  # as in the library of policy "snapkv"


class SnapKVDecode(ByContents):
    """Keep the last `recent_size` tokens and, per head, the others that these looked at most; every `interval` tokens.

    Paper: Li et al., "SnapKV: LLM Knows What You Are Looking for Before Generation", NeurIPS 2024 (arXiv 2404.14469),
    which reduces the prompt only. Acts in both stages, beyond the paper, as R-KV and others compare with it: while
    decoding every W tokens, W = `recent_size` = `interval` = 32 but at most an eighth of the cache, which is full
    before and W tokens shorter afterwards. Scores are those of policy "snapkv": the weights of the last W queries,
    averaged over a group, summed, and pooled over neighbours before the window. Deviates with other positions than
    "original": queries see keys where they stand in the cache now.
    """

    name = "snapkv_decode"
    title = "SnapKV while decoding"
    options = ("kernel_size", "pooling", "interval")

    def default_sink_size(self) -> int:
        return 0

    def default_recent_size(self, cache_size: int, sink_size: int) -> int:
        return self.default_interval(cache_size)

    def default_interval(self, cache_size: int) -> int:
        return max(min(WINDOW, cache_size // MOST_AT_ONCE), 1)

    def last_queries(self, settings: Settings) -> int:
        return settings.recent_size

    def importance(self, settings: Settings, tokens: Candidates) -> Tensor:
        logits = tokens.contents.logits()
        window, held = logits.shape[3:]
        later = logits.new_full((window, held), float("-inf")).triu(held - window + 1)
        weights = (logits + later).softmax(-1).mean(2).sum(2)
        return smooth(weights[..., : held - window], settings.kernel_size, settings.pooling)
