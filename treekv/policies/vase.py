"""Policy "vase": keep values of a wide range, and draw the rest by attention."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d

from treekv.policies.by_contents import MOST_AT_ONCE, ByContents, Candidates
from treekv.policies.ranking import highest, splitmix
from treekv.policies.settings import Settings

INTERVAL: Final = 64  # also queries, and tokens that stay
KERNEL: Final = 5
WIDE: Final = 4  # a quarter of what is kept goes by its range


class VaSE(ByContents):
    """Keep the quarter whose values have the widest range; of the others, draw in proportion to attention.

    Paper: "VaSE: Value-aware Stochastic KV Cache Eviction", 2026 (arXiv 2606.03928), and its published code.
    Acts in both stages, per head: while decoding every `interval` tokens, 64 but at most an eighth of the cache, which
    is full before and `interval` tokens shorter afterwards. As many recent tokens stay, and the first 4. A value's
    range is its largest less its smallest channel; a quarter of what is kept, the first 4 included, goes by it
    (1,024 of 4,096 in the paper). The rest is drawn without replacement, in proportion to the weights of the
    queries of the recent tokens over the tokens before them: mean over the queries, of 5 neighbours, and over the
    query heads of a group. Deviates in the source of the draws: a hash of seed, layer, head and step, so that a run
    can be repeated; and with other positions than "original": queries then see keys where they stand in the cache
    now. `recent_size` is the number of queries.
    """

    name = "vase"
    title = "VaSE"
    options = ("interval",)
    depends_on_layer = True
    takes_layers_together = True

    def default_recent_size(self, cache_size: int, sink_size: int) -> int:
        return self.default_interval(cache_size)

    def default_interval(self, cache_size: int) -> int:
        return max(min(INTERVAL, cache_size // MOST_AT_ONCE), 1)

    def last_queries(self, settings: Settings) -> int:
        return settings.recent_size

    def importance(self, settings: Settings, tokens: Candidates) -> Tensor:
        # In float64, where no weight is so small that it vanishes: the draw goes by their logarithms.
        logits = tokens.contents.logits()[..., : -self.last_queries(settings)].double()
        by_head = logits.softmax(-1).mean(3)  # [batch, kv_heads, group, n]
        pooled = avg_pool1d(by_head.flatten(0, 1), KERNEL, stride=1, padding=KERNEL // 2)
        weights = pooled.unflatten(0, by_head.shape[:2]).mean(2)
        # The highest of log p + Gumbel noise are a draw without replacement in proportion to p.
        number = torch.arange(weights.shape[2], device=tokens.device)
        drawn = splitmix(settings.seed, tokens.layer, tokens.heads, number, tokens.step, tokens.device)
        noise = -(-((drawn.double() + 0.5) / 2**31).log()).log()
        importance = (weights.log() + noise).float()
        values = tokens.contents.values()[:, :, : weights.shape[2]]
        ranges = values.amax(3) - values.amin(3)
        ranges[..., : settings.sink_size] = torch.inf
        wide = highest(ranges, min(tokens.kept // WIDE, ranges.shape[2]))
        return importance.scatter(2, wide, torch.inf)
