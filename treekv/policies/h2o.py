"""Policy "h2o": heavy hitters by accumulated attention, plus the recent tokens."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from treekv.policies.base import Policy
from treekv.policies.contest import SUM, Contest
from treekv.policies.ranking import highest, with_protected
from treekv.policies.scores import Prompt, Selection
from treekv.policies.settings import Settings
from treekv.policies.variants import PAPER_ALLOCATION


class H2O(Policy):
    """Keep the last `recent_size` tokens and, of the rest, those with the highest sum of attention weights.

    Paper: Zhang et al., "H2O: Heavy-Hitter Oracle for Efficient Generative Inference of Large Language Models",
    NeurIPS 2023 (arXiv 2306.14048). Acts in both stages, per head; half of the budget is recent and half heavy by
    default, and no token is protected for being first. A prompt is scored by all of its queries. Deviates under
    grouped queries: the weight that a KV head sees is the mean over its query heads. `sink_size` > 0 protects the
    first tokens as well, which the paper does not. `variant` "paper" is what the TreeKV paper compares with: 4 sinks,
    half of the cache recent, the rest heavy hitters.
    """

    name = "h2o"
    title = "H2O"
    options = ("variant", "share_heads")
    variants: ClassVar = {"paper": PAPER_ALLOCATION}
    by = SUM
    observes_whole_prompt = True

    def default_sink_size(self) -> int:
        return 0

    def contest(self, settings: Settings, capacity: int) -> Contest:
        return Contest(self.by, first=settings.sink_size, recent=settings.recent_size)

    def competing(self, settings: Settings, prompt: Prompt) -> Tensor:
        assert prompt.sums is not None  # uses_attention is True
        return prompt.sums[..., settings.sink_size : prompt.length - settings.recent_size]

    def select_prompt(self, settings: Settings, prompt: Prompt) -> Selection:
        first, last = settings.sink_size, prompt.length - settings.recent_size
        heavy = highest(self.competing(settings, prompt), self.prompt_slots(settings, prompt)) + first
        return Selection(with_protected(heavy, first, last, prompt.length), None)
