"""Policy "lagkv": keep what varies most, seen from the tokens that come next."""

from __future__ import annotations

import torch
from torch import Tensor

from treekv.errors import TreeKVError
from treekv.policies.by_contents import MOST_AT_ONCE, ByContents, Candidates
from treekv.policies.settings import Settings

LAG = 128  # tokens of a partition


class LagKV(ByContents):
    """Cut the tokens after the sinks into partitions and evict the lowest of each, as seen from the next partition.

    Paper: Liang et al., "LagKV: Lag-Relative Information of the KV Cache Tells Which Tokens Are Important", 2025
    (arXiv 2504.04704); attention is not used. Acts in both stages, per head. Keys are scaled by the smallest and the
    largest of each channel in the next partition; the standard deviation over channels is a token's score, by softmax
    within its partition, and that of keys and values are added. What counts is the rank in the partition. The last
    partition and the rest after it stay. As in NVIDIA's kvpress the rule is applied to whatever is cached, so that
    partitions move on as tokens go; the paper compresses each partition once and lets the cache grow. `interval`, 128
    but at most an eighth of the cache, is the size of a partition, and that many tokens are evicted at once. Deviates
    also with other positions than "original": keys are then compared before rotary embedding. Where a channel is the
    same in the whole next partition, so that it has no range to scale by, another value counts as very different.
    """

    name = "lagkv"
    title = "LagKV"
    options = ("interval",)

    def default_recent_size(self, cache_size: int, sink_size: int) -> int:
        return 0

    def default_interval(self, cache_size: int) -> int:
        return max(min(LAG, cache_size // MOST_AT_ONCE), 2)

    def check(self, settings: Settings) -> None:
        super().check(settings)
        if settings.interval == 1 or settings.sink_size + 3 * settings.interval > settings.cache_size:
            raise TreeKVError(
                f"interval must be at least 2, and three times it with the sinks at most cache_size, for policy "
                f"'lagkv', whose partitions are that long, got interval {settings.interval}, sink_size "
                f"{settings.sink_size} and cache_size {settings.cache_size}"
            )

    def importance(self, settings: Settings, tokens: Candidates) -> Tensor:
        keys, values = tokens.contents.keys(), tokens.contents.values()
        sinks, lag, held = settings.sink_size, settings.interval, keys.shape[2]
        whole = (held - sinks) // lag
        parts = [each[:, :, sinks : sinks + whole * lag].unflatten(2, (whole, lag)) for each in (keys, values)]
        scores = _spread(parts[0]) + _spread(parts[1])
        ranks = scores.argsort(dim=3, stable=True).argsort(dim=3).flatten(2)
        stays = ranks.new_full((1,), lag).expand(*ranks.shape[:2], held - ranks.shape[2])
        return torch.cat([stays[..., :sinks], ranks, stays[..., sinks:]], dim=2).float()


def _spread(partitions: Tensor) -> Tensor:
    """Scores [batch, heads, p - 1, lag] of all but the last of `partitions` [batch, heads, p, lag, channels]."""
    following = partitions[:, :, 1:]
    least, most = following.amin(3, keepdim=True), following.amax(3, keepdim=True)
    span = (most - least).clamp(min=torch.finfo(following.dtype).tiny)  # a channel may be the same in all tokens
    return ((partitions[:, :, :-1] - least) / span).clamp(-1e9, 1e9).std(4).softmax(3)
