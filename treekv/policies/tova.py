"""Policy "tova": token omission via attention, evict the token with the lowest weight from the last query."""

from __future__ import annotations

from typing import ClassVar

from treekv.policies.base import Policy
from treekv.policies.contest import LAST, Contest
from treekv.policies.ranking import highest, with_protected
from treekv.policies.scores import Prompt, Selection
from treekv.policies.settings import Settings
from treekv.policies.variants import PAPER_ALLOCATION


class TOVA(Policy):
    """Keep the tokens with the highest attention weight of the last query, averaged over all query heads.

    Paper: Oren et al., "Transformers are Multi-State RNNs", EMNLP 2024 (arXiv 2401.06104). Acts in both stages.
    Every KV head of a layer keeps the same tokens, and the current token competes too. Deviates in nothing by
    default; `sink_size` and `recent_size` > 0 protect tokens, which the paper does not. `variant` "paper" is what the
    TreeKV paper compares with: 4 sinks, half of the cache recent, the rest by TOVA's score.
    """

    name = "tova"
    title = "TOVA"
    options = ("variant",)
    variants: ClassVar = {"paper": PAPER_ALLOCATION}
    by = LAST
    budgets_per_head = False  # all heads of a layer keep the same tokens

    def default_sink_size(self) -> int:
        return 0

    def default_recent_size(self, cache_size: int, sink_size: int) -> int:
        return 0

    def contest(self, settings: Settings, capacity: int) -> Contest:
        return Contest(self.by, first=settings.sink_size, recent=settings.recent_size, heads_together=True)

    def select_prompt(self, settings: Settings, prompt: Prompt) -> Selection:
        assert prompt.sums is not None  # uses_attention is True
        first, last = settings.sink_size, prompt.length - settings.recent_size
        common = prompt.sums[..., first:last].mean(1, keepdim=True)
        chosen = highest(common, settings.region_size) + first
        return Selection(with_protected(chosen, first, last, prompt.length), None)
