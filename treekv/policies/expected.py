"""Policy "expected": keep what coming queries are expected to look at."""

from __future__ import annotations

from torch import Tensor

from treekv.errors import TreeKVError
from treekv.policies.base import Policy
from treekv.policies.contest import NOTHING
from treekv.policies.ranking import highest, with_protected
from treekv.policies.scores import EXPECTED, Prompt, Selection
from treekv.policies.settings import Settings


class Expected(Policy):
    """Keep the tokens of a prompt with the largest expected weight from queries after it, times the value's norm.

    Paper: Devoto et al., "Expected Attention: KV Cache Compression by Estimating Attention from Future Queries
    Distribution", 2025 (arXiv 2510.00636). Acts on the prompt only: what is generated afterwards is all kept,
    beyond `cache_size`. Queries to come are taken as normally distributed, with the mean and the covariance of
    the prompt's own before rotary embedding (sinks left out), turned by the mean rotation of the 512 places that
    follow. Attention weights of the query heads of a group are averaged. The first 4 tokens stay. Deviates from
    NVIDIA's kvpress where a model's queries have a bias or are normalized: there the bias is left out and such
    models are refused, here the queries are taken as they are.
    """

    name = "expected"
    title = "Expected Attention"
    options = ("share_heads",)
    by = NOTHING
    evicts_decoding = False
    default_positions = "original"

    def future_by(self, settings: Settings) -> str | None:
        return EXPECTED

    def default_recent_size(self, cache_size: int, sink_size: int) -> int:
        return 0

    def check(self, settings: Settings) -> None:
        super().check(settings)
        if settings.prefill != "once":
            raise TreeKVError(
                f"prefill must be 'once' for policy 'expected', which acts on a whole prompt, got {settings.prefill!r}"
            )

    def competing(self, settings: Settings, prompt: Prompt) -> Tensor:
        assert prompt.future is not None  # the policy scores it
        return prompt.future[..., settings.sink_size : prompt.length - settings.recent_size]

    def select_prompt(self, settings: Settings, prompt: Prompt) -> Selection:
        first, last = settings.sink_size, prompt.length - settings.recent_size
        chosen = highest(self.competing(settings, prompt), self.prompt_slots(settings, prompt)) + first
        return Selection(with_protected(chosen, first, last, prompt.length), None)
