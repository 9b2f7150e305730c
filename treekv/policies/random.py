"""Policy "random": evict any token that is not protected."""

from __future__ import annotations

import torch

from treekv.policies.base import Policy
from treekv.policies.contest import DRAW, Contest
from treekv.policies.ranking import highest, splitmix, with_protected
from treekv.policies.scores import Prompt, Selection
from treekv.policies.settings import Settings


class Random(Policy):
    """At each eviction each head drops one of its unprotected tokens, all equally likely.

    A control, not a published method. Acts in both stages. Draws are a hash of seed, layer, head and step, so a
    run can be repeated and a row of a batch gets what it would get alone.
    """

    name = "random"
    title = "random"
    by = DRAW
    depends_on_layer = True
    takes_layers_together = True  # a column of layers is hashed as one is

    def contest(self, settings: Settings, capacity: int) -> Contest:
        return Contest(self.by, first=settings.sink_size, recent=settings.recent_size, seed=settings.seed)

    def select_prompt(self, settings: Settings, prompt: Prompt) -> Selection:
        first, last = settings.sink_size, prompt.length - settings.recent_size
        position = torch.arange(first, last, device=prompt.device)
        draws = splitmix(settings.seed, prompt.layer, prompt.heads, position, prompt.length, prompt.device)
        chosen = highest(draws, settings.region_size) + first
        return Selection(with_protected(chosen, first, last, prompt.length), None)
