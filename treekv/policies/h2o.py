"""Policy "h2o": heavy hitters by accumulated attention, plus the recent tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from treekv.policies.base import Evictions, Policy, Prompt, Scores, Selection, highest, lowest, with_protected

if TYPE_CHECKING:
    from treekv.config import TreeKVConfig


class H2O(Policy):
    """Keep the last `recent_size` tokens and, of the rest, those with the highest sum of attention weights.

    Paper: Zhang et al., "H2O: Heavy-Hitter Oracle for Efficient Generative Inference of Large Language Models",
    NeurIPS 2023 (arXiv 2306.14048). Acts in both stages, per head; half of the budget is recent and half heavy by
    default, and no token is protected for being first. A prompt is scored by all of its queries. Deviates under
    grouped queries: the weight that a KV head sees is the mean over its query heads. `sink_size` > 0 protects the
    first tokens as well, which the paper does not.
    """

    name = "h2o"
    observes_whole_prompt = True

    def default_sink_size(self) -> int:
        return 0

    def evict(self, config: TreeKVConfig, scores: Scores, count: int) -> Evictions:
        candidates = slice(config.sink_size, scores.held - config.recent_size)
        losers = lowest(scores.total(candidates), count, config.sink_size)
        return Evictions(losers)

    def select_prompt(self, config: TreeKVConfig, prompt: Prompt) -> Selection:
        assert prompt.sums is not None  # uses_attention is True
        first, last = config.sink_size, prompt.length - config.recent_size
        heavy = highest(prompt.sums[..., first:last], config.region_size) + first
        return Selection(with_protected(heavy, first, last, prompt.length), None)
