"""Policy "lacache": a ladder over the layers, which keep different tokens of the same neighbours."""

from __future__ import annotations

import torch
from torch import Tensor

from treekv.errors import TreeKVError
from treekv.policies.base import Policy
from treekv.policies.contest import NOTHING
from treekv.policies.ranking import without
from treekv.policies.scores import Evictions, Prompt, Scores, Selection
from treekv.policies.settings import Settings

LAYERS = 32  # of the models in the paper; as many recent tokens are never evicted


class LaCache(Policy):
    """Keep one of two neighbours at a cursor, the older in one layer and the newer in the next; no scores are used.

    Paper: Shi et al., "LaCache: Ladder-Shaped KV Caching for Efficient Long-Context Modeling of Large Language
    Models", ICML 2025 (arXiv 2507.14204), with overlap 0, and its published code. Acts in both stages, without
    attention. A step of the ladder is `interval` + 1 neighbours, of which layer l keeps number l modulo `interval` + 1,
    counted from 0, and evicts the others at once; then the cursor moves on by one, and starts again at the sinks when
    the next step would reach the recent tokens. The code's `span` of 16 layers means `interval` 1 for models of 17 to
    32 layers, which is the default, and one more for every 16 layers more. Its 4 sinks stay, and as many recent tokens
    as the model has layers: `recent_size`, 32 but at most a quarter of the cache. Deviates in two places: `cache_size`
    is the most that is kept, where the code's is the mean; and a prompt is reduced step by step, as if it were decoded,
    where the code takes larger steps if it is more than two sweeps long. After it the cursor is at the sinks.
    """

    name = "lacache"
    title = "LaCache"
    options = ("interval",)
    by = NOTHING
    depends_on_layer = True
    takes_layers_together = True

    def default_recent_size(self, cache_size: int, sink_size: int) -> int:
        return min(LAYERS, cache_size // 4)

    def eviction_count(self, settings: Settings, excess: int) -> int:
        return -(-excess // settings.interval) * settings.interval

    def check(self, settings: Settings) -> None:
        super().check(settings)
        if settings.interval > settings.region_size:
            raise TreeKVError(
                f"interval must be at most {settings.region_size} for policy {self.name!r}, the tokens of the cache "
                f"that are neither sinks nor recent, got {settings.interval}"
            )

    def cursor_wrap(self, settings: Settings, capacity: int) -> int:
        return capacity - settings.sink_size - settings.recent_size - settings.interval + 1

    def evict(self, settings: Settings, scores: Scores, count: int) -> Evictions:
        steps = count // settings.interval
        losers, cursor = self._climb(settings, scores.capacity, scores.cursor, scores.layer, steps, scores.device)
        return Evictions(losers.expand(*scores.shape, -1), None, cursor)

    def select_prompt(self, settings: Settings, prompt: Prompt) -> Selection:
        excess, cursor = self.eviction_count(settings, prompt.length - settings.cache_size), 0
        kept = torch.arange(prompt.length, device=prompt.device)[None, None]
        while excess:
            steps = excess // settings.interval
            losers, moved = self._climb(settings, settings.cache_size, cursor, prompt.layer, steps, prompt.device)
            assert isinstance(moved, int)  # one number, as it was
            kept, cursor = without(kept.expand(len(losers), 1, -1), losers), moved
            excess -= losers.shape[2]
        return Selection(kept, None)

    def _climb(
        self,
        settings: Settings,
        capacity: int,
        cursor: int | Tensor,
        layer: int | tuple[int, ...],
        most: int,
        device: torch.device,
    ) -> tuple[Tensor, int | Tensor]:
        """LongTensor [1 or rows, 1, m], the ranks that go in up to `most` steps, as many as can be made at once, and
        the cursor afterwards."""
        width, wrap = settings.interval + 1, self.cursor_wrap(settings, capacity)
        steps = 1 if isinstance(cursor, Tensor) else min(most, wrap - cursor)
        start = cursor + settings.sink_size + width * torch.arange(steps, device=device)
        stays = torch.tensor(layer, device=device).view(-1, 1, 1) % width
        others = torch.arange(settings.interval, device=device)
        others = others + (others >= stays)  # [1 or rows, 1, interval] of the ranks 0 ... width - 1
        losers = start.view(-1, 1, steps, 1) + others[:, :, None]
        return losers.flatten(2), (cursor + steps) % wrap
