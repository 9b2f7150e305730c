"""Policy "rkv": keep what the last queries look at and what is not said twice."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from treekv.policies.by_contents import MOST_AT_ONCE, ByContents, Candidates
from treekv.policies.pooling import smooth
from treekv.policies.settings import Settings

WINDOW: Final = 8  # queries, and tokens that stay
KERNEL: Final = 7
INTERVAL: Final = 128
ATTENTION: Final = 0.07  # the share of attention in the importance, the rest is redundancy
SIMILAR: Final = 0.5  # cosine above which a key repeats another
NUMBERS_AT_ONCE: Final = 2**22  # cosines that exist at a time


class RKV(ByContents):
    """Weigh the attention of the last queries against the redundancy of the keys.

    Paper: Cai et al., "R-KV: Redundancy-aware KV Cache Compression for Reasoning Models", 2025 (arXiv 2505.24133).
    Acts while decoding, every `interval` tokens, 128 but at most an eighth of the cache, which is full before and
    `interval` tokens shorter afterwards; and on a prompt, by the same rule. As in the published code: the last 8 tokens
    stay and their queries look at the others (of the products of a group the largest counts, softmax over the tokens
    before the 8, mean over the queries, largest of 7 neighbours); redundancy is the softmax of each key's mean cosine
    to all keys, of which each leaves out itself and the latest that it is similar to (above 0.5); importance is 0.07
    attention less 0.93 redundancy. Deviates with other positions than "original": cosines are then of keys before
    rotary embedding, and queries see keys where they stand in the cache now. `recent_size` is the number of queries.
    """

    name = "rkv"
    title = "R-KV"
    options = ("interval",)

    def default_sink_size(self) -> int:
        return 0

    def default_recent_size(self, cache_size: int, sink_size: int) -> int:
        return max(min(WINDOW, cache_size // MOST_AT_ONCE), 1)

    def default_interval(self, cache_size: int) -> int:
        return max(min(INTERVAL, cache_size // MOST_AT_ONCE), 1)

    def last_queries(self, settings: Settings) -> int:
        return settings.recent_size

    def importance(self, settings: Settings, tokens: Candidates) -> Tensor:
        window = self.last_queries(settings)
        weights = tokens.contents.logits()[..., :-window].amax(2).softmax(-1).mean(2)
        redundancy = redundancies(tokens.contents.keys())[..., :-window]
        return ATTENTION * smooth(weights, KERNEL, "max") - (1 - ATTENTION) * redundancy


def redundancies(keys: Tensor) -> Tensor:
    """float32 [batch, heads, n]: softmax of the mean over all `keys` [batch, heads, n, dim] of their cosine with each.

    A key counts for none that is itself, or the latest of those to which its cosine is more than SIMILAR.
    """
    unit = keys / (keys.norm(dim=3, keepdim=True) + 1e-8)
    n = unit.shape[2]
    number = torch.arange(n, device=keys.device)
    total = torch.zeros_like(unit[..., 0])
    for of in number.split(max(NUMBERS_AT_ONCE // total.numel(), 1)):
        cosines = unit[:, :, of] @ unit.transpose(2, 3)
        cosines.masked_fill_(of[:, None] == number, 0)
        latest = torch.where(cosines > SIMILAR, number, 0).amax(3, keepdim=True)  # the first, if there is none
        total += cosines.scatter_(3, latest, 0).sum(2)
    return (total / n).softmax(2)
