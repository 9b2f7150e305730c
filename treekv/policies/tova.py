"""Policy "tova": token omission via attention, whatever the last query looked at least goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from treekv.policies.base import Evictions, Policy, Prompt, Scores, Selection, highest, lowest, with_protected

if TYPE_CHECKING:
    from treekv.config import TreeKVConfig


class TOVA(Policy):
    """Keep the tokens with the highest attention weight of the last query, averaged over all query heads.

    Paper: Oren et al., "Transformers are Multi-State RNNs", EMNLP 2024 (arXiv 2401.06104). Acts in both stages.
    Every KV head of a layer keeps the same tokens, and the current token competes too. Deviates in nothing by
    default; `sink_size` and `recent_size` > 0 protect tokens, which the paper does not.
    """

    name = "tova"
    accumulates = False

    def default_sink_size(self) -> int:
        return 0

    def default_recent_size(self, cache_size: int, sink_size: int) -> int:
        return 0

    def evict(self, config: TreeKVConfig, scores: Scores, count: int) -> Evictions:
        candidates = slice(config.sink_size, scores.held - config.recent_size)
        # Groups are equally large, so the mean over KV heads of the group means is the mean over all query heads.
        common = scores.total(candidates).mean(1, keepdim=True)
        losers = lowest(common, count, config.sink_size)
        return Evictions(losers.expand(*scores.shape, count))

    def select_prompt(self, config: TreeKVConfig, prompt: Prompt) -> Selection:
        assert prompt.sums is not None  # uses_attention is True
        first, last = config.sink_size, prompt.length - config.recent_size
        common = prompt.sums[..., first:last].mean(1, keepdim=True)
        chosen = highest(common, config.region_size) + first
        return Selection(with_protected(chosen, first, last, prompt.length), None)
