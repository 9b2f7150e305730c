"""The base class of policies that compare tokens by their keys and values, and by what the last queries look at."""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from treekv.errors import TreeKVError
from treekv.policies.base import Policy
from treekv.policies.contest import NOTHING
from treekv.policies.ranking import highest, lowest, with_protected
from treekv.policies.scores import Contents, Evictions, Prompt, Scores, Selection
from treekv.policies.settings import Settings

#: By default at most this share of the cache is evicted at once: half of it is empty on average.
MOST_AT_ONCE = 8


class Candidates(NamedTuple):
    """What such a policy judges by: the n tokens that are held, or of a prompt.

    Attributes:
        contents: their keys and values.
        kept: how many of them will be kept.
        step: true position of the newest: one number, or a LongTensor [batch, 1, 1].
        layer, heads: as in `Scores`.
        device: where the tensors live.
    """

    contents: Contents
    kept: int
    step: int | Tensor
    layer: int | tuple[int, ...]
    heads: int | Tensor
    device: torch.device


class ByContents(Policy):
    """Keeps what has the highest importance, beside the first `sink_size` and the last `recent_size` tokens."""

    by = NOTHING  # no score that the cache collects
    reads_contents = True

    @abstractmethod
    def importance(self, settings: Settings, tokens: Candidates) -> Tensor:
        """float32 [batch, kv_heads, n or fewer], of all tokens or all but the last recent ones; of equals the older are
        evicted. Values of sinks and recent tokens do not matter."""

    def check(self, settings: Settings) -> None:
        super().check(settings)
        if not settings.recent_size and type(self).last_queries is not ByContents.last_queries:
            raise TreeKVError(
                f"recent_size must be at least 1 for policy {self.name!r}, which compares the other tokens by the "
                "queries of the recent ones, got 0"
            )
        if settings.interval > settings.region_size:
            raise TreeKVError(
                f"interval must be at most {settings.region_size} for policy {self.name!r}, the tokens of the cache "
                f"that are neither sinks nor recent, got {settings.interval}"
            )

    def evict(self, settings: Settings, scores: Scores, count: int) -> Evictions:
        held = scores.held
        tokens = Candidates(scores.contents, held - count, scores.step, scores.layer, scores.heads, scores.device)
        values = self.importance(settings, tokens)[..., settings.sink_size : held - settings.recent_size]
        return Evictions(lowest(values, count, settings.sink_size))

    def select_prompt(self, settings: Settings, prompt: Prompt) -> Selection:
        assert prompt.contents is not None  # the policy reads them
        first, last = settings.sink_size, prompt.length - settings.recent_size
        step = prompt.length - 1
        tokens = Candidates(prompt.contents, settings.cache_size, step, prompt.layer, prompt.heads, prompt.device)
        values = self.importance(settings, tokens)[..., first:last]
        return Selection(
            with_protected(highest(values, settings.region_size) + first, first, last, prompt.length), None
        )
