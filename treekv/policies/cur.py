"""Policy "cur": keep large keys and values, measured in a few random directions."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from treekv.policies.by_contents import MOST_AT_ONCE, ByContents, Candidates
from treekv.policies.ranking import gaussians
from treekv.policies.settings import Settings

DIRECTIONS: Final = 20
INTERVAL: Final = 64


class CUR(ByContents):
    """Keep the tokens with the largest product of the norms of key and value in 20 random directions, drawn anew.

    Paper: Sengupta et al., "Value-Guided KV Compression for LLMs via Approximated CUR Decomposition", 2025
    (arXiv 2509.15038); while decoding with directions drawn anew at each eviction, as "CUR, resampled" in the code of
    VaSE (arXiv 2606.03928). Acts in both stages, per head, without attention: while decoding every `interval` tokens,
    64 but at most an eighth of the cache; 4 sinks and as many recent tokens stay. Directions are the same for keys and
    values and for all heads of a layer. Deviates in their source: Gaussian numbers from a hash of seed, layer and step,
    so that a run can be repeated; with positions other than "original" keys have their channels in another order, which
    is another draw.
    """

    name = "cur"
    title = "CUR"
    options = ("interval",)
    depends_on_layer = True
    takes_layers_together = True

    def default_recent_size(self, cache_size: int, sink_size: int) -> int:
        return self.default_interval(cache_size)

    def default_interval(self, cache_size: int) -> int:
        return max(min(INTERVAL, cache_size // MOST_AT_ONCE), 1)

    def importance(self, settings: Settings, tokens: Candidates) -> Tensor:
        keys, values = tokens.contents.keys(), tokens.contents.values()
        channels = max(keys.shape[3], values.shape[3])
        drawn = gaussians(settings.seed, tokens.layer, tokens.step, channels * DIRECTIONS, tokens.device)
        directions = drawn.unflatten(1, (1, channels, DIRECTIONS))
        sizes = [(each @ directions[:, :, : each.shape[3]]).square().sum(3) for each in (keys, values)]
        return torch.mul(*sizes)
