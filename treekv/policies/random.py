"""Policy "random": evict anybody who is not protected."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from treekv.policies.base import Evictions, Policy, Prompt, Scores, Selection, highest, with_protected

if TYPE_CHECKING:
    from treekv.config import TreeKVConfig


class Random(Policy):
    """At each eviction each head drops one of its unprotected tokens, all equally likely.

    A control, not a published method. Acts in both stages. Draws are a hash of seed, layer, head and step, so a
    run can be repeated and a row of a batch gets what it would get alone.
    """

    name = "random"
    uses_attention = False
    depends_on_layer = True
    takes_layers_together = True  # a column of layers is hashed as one is

    def evict(self, config: TreeKVConfig, scores: Scores, count: int) -> Evictions:
        candidates = scores.held - config.recent_size - config.sink_size
        # `held` tells the evictions of one step apart: it falls by one with each.
        draw = hashed(config.seed, scores.layer, scores.shape[1], scores.step, scores.held, scores.device)
        return Evictions((draw % candidates + config.sink_size).expand(*scores.shape, 1))

    def select_prompt(self, config: TreeKVConfig, prompt: Prompt) -> Selection:
        first, last = config.sink_size, prompt.length - config.recent_size
        position = torch.arange(first, last, device=prompt.device)
        draws = hashed(config.seed, prompt.layer, prompt.heads, position, prompt.length, prompt.device)
        chosen = highest(draws, config.region_size) + first
        return Selection(with_protected(chosen, first, last, prompt.length), None)


def hashed(
    seed: int,
    layer: int | tuple[int, ...],
    heads: int,
    step: int | Tensor,
    held: int,
    device: torch.device | str,
) -> Tensor:
    """Numbers from 0 to 2**31 - 1, LongTensor [1 or batch, heads, 1 or as many as `step` has].

    The finalizer of SplitMix64, once for each input; int64 arithmetic wraps around on every device.
    """
    value = torch.zeros((1, heads, 1), dtype=torch.long, device=device)
    rows = layer if isinstance(layer, int) else torch.tensor(layer, device=device)[:, None, None]
    for part in (seed, rows, torch.arange(heads, device=device)[None, :, None], held, step):
        value = (value + part + 1) * -7046029254386353131
        value = (value ^ (value >> 30 & (1 << 34) - 1)) * -4658895280553007687
        value = (value ^ (value >> 27 & (1 << 37) - 1)) * -7723592293110705685
        value = value ^ (value >> 31 & (1 << 33) - 1)
    return value >> 33 & (1 << 31) - 1
