"""Policy "cascade": buffers behind one another, each of which accepts half as often as the one before."""

from __future__ import annotations

import torch
from torch import Tensor

from treekv.errors import TreeKVError
from treekv.policies.base import Policy
from treekv.policies.contest import SUM
from treekv.policies.ranking import without
from treekv.policies.scores import Evictions, Prompt, Scores, Selection
from treekv.policies.settings import Settings

BUFFERS = 4


class Cascade(Policy):
    """Buffers of `recent_size` tokens: each accepts every second token that the newer one drops, or else compares it.

    Paper: Willette et al., "Training-Free Exponential Context Extension via Cascading KV Cache", 2024
    (arXiv 2406.17808), and its published code. Acts in both stages, per head. Tokens enter the newest of N buffers of W
    tokens, 4 by default (W = `recent_size`; sinks and whole buffers are kept, which may be less than `cache_size`).
    Full buffers pass on their oldest token. Buffer i, counted from 0, accepts it when the number of the new token,
    counted from the first after the sinks, is a multiple of 2^i. Otherwise it competes with the buffer's newest token:
    the one with the lower score goes, of equals the older. What the last buffer passes on goes, too, as does its oldest
    token at the first eviction. Scores are moving averages of attention weights, in which a weight counts 1 % after W
    more queries, the mean over a group of query heads (the code's default; its scripts take the largest). Deviates
    for a prompt under "once", which the code reads in strides: there the buffers are filled by its tokens one after
    another, compared by the sums of the observation window, with which decoding goes on.
    """

    name = "cascade"
    title = "Cascading KV"
    by = SUM

    def default_recent_size(self, cache_size: int, sink_size: int) -> int:
        return max((cache_size - sink_size) // BUFFERS, 0)

    def check(self, settings: Settings) -> None:
        if settings.recent_size < 1 or self._buffers(settings, settings.cache_size) < 2:
            raise TreeKVError(
                f"recent_size must be at least 1 and at most half of cache_size without sink_size for policy "
                f"{self.name!r}, whose buffers are that long, got recent_size {settings.recent_size}, cache_size "
                f"{settings.cache_size} and sink_size {settings.sink_size}"
            )

    def capacity(self, settings: Settings) -> int:
        return settings.sink_size + settings.recent_size * self._buffers(settings, settings.cache_size)

    def decay(self, settings: Settings) -> float:
        return 100 ** (-1 / settings.recent_size)

    def evict(self, settings: Settings, scores: Scores, count: int) -> Evictions:
        new = scores.step - (count - 1)  # of several tokens that came together they are taken one after another
        first = self._faller(settings, scores.capacity, new)
        if isinstance(first, int):
            first = torch.full((1, 1, 1), first, device=scores.device)
        ranks = torch.cat([(first - 1).clamp(min=0), first], 2)
        older, newer = scores.total(ranks).split(1, 2)
        return Evictions(self._loser(settings, first, older, newer).expand(*scores.shape, 1))

    def select_prompt(self, settings: Settings, prompt: Prompt) -> Selection:
        sums, most = prompt.sums, self.capacity(settings)
        assert sums is not None  # uses_attention is True
        position = torch.arange(prompt.length, device=prompt.device).expand(*sums.shape)
        kept = position[..., :most]
        for new in range(most, prompt.length):
            first = self._faller(settings, most, new)
            assert isinstance(first, int)
            kept = torch.cat([kept, position[..., new : new + 1]], 2)
            older, newer = sums.gather(2, kept[..., max(first - 1, 0) : first + 1]).tensor_split([first and 1], 2)
            rank = torch.full((1, 1, 1), first, device=prompt.device)
            lost = self._loser(settings, rank, older if first else newer, newer)
            kept = without(kept, lost.expand(*sums.shape[:2], 1))
        return Selection(kept, None)

    def _buffers(self, settings: Settings, capacity: int) -> int:
        return (capacity - settings.sink_size) // settings.recent_size

    def _faller(self, settings: Settings, capacity: int, new: int | Tensor) -> int | Tensor:
        """The rank of the token that reaches a buffer which does not accept it, or that the last buffer passes on, when
        the token at position `new` has come."""
        size, buffers = settings.recent_size, self._buffers(settings, capacity)
        number, accepting = new - settings.sink_size, 0
        for i in range(buffers):
            accepting = accepting + (number % 2**i == 0)
        if isinstance(accepting, Tensor):
            accepting = torch.where(new <= capacity, buffers, accepting)  # all do until one token went
        elif isinstance(new, int) and new <= capacity:
            accepting = buffers
        return settings.sink_size + (buffers - accepting) * size

    def _loser(self, settings: Settings, first: Tensor, older: Tensor, newer: Tensor) -> Tensor:
        """The rank that goes: the faller `first`, or the buffer's newest token before it, if that is not higher."""
        passed_on = first <= settings.sink_size
        return torch.where(passed_on | (newer < older), first, first - 1)
