"""Policy "random": evict anybody who is not protected."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from treekv.policies.base import Evictions, Policy, Prompt, Scores, Selection, highest, with_protected

if TYPE_CHECKING:
    from treekv.config import TreeKVConfig


STEPS, HELD = 32, 16  # draws are made for so many steps, and so many numbers of tokens held, at a time


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
        # `held` tells the evictions of one step apart: it falls by one with each.
        step, held, protected = scores.step, scores.held, (config.sink_size, config.recent_size)
        who = (config.seed, scores.layer, scores.shape[1])
        if isinstance(step, Tensor) or torch.compiler.is_compiling():
            losers = _losers(*who, step, held, *protected, scores.device)
        else:
            first = step - step % STEPS, held - held % HELD
            losers = _many(*who, *first, *protected, scores.device)
            losers = losers.narrow(2, (step - first[0]) * HELD + held - first[1], 1)
        return Evictions(losers.expand(*scores.shape, 1))

    def select_prompt(self, config: TreeKVConfig, prompt: Prompt) -> Selection:
        first, last = config.sink_size, prompt.length - config.recent_size
        position = torch.arange(first, last, device=prompt.device)
        draws = hashed(config.seed, prompt.layer, prompt.heads, position, prompt.length, prompt.device)
        chosen = highest(draws, config.region_size) + first
        return Selection(with_protected(chosen, first, last, prompt.length), None)


@lru_cache(maxsize=8)
def _many(
    seed: int,
    layer: int | tuple[int, ...],
    heads: int,
    step: int,
    held: int,
    sink: int,
    recent: int,
    device: torch.device,
) -> Tensor:
    """`_losers` for each of the next steps and, within a step, of the next numbers held."""
    steps = torch.arange(step, step + STEPS, device=device).repeat_interleave(HELD)
    helds = torch.arange(held, held + HELD, device=device).repeat(STEPS)
    return _losers(seed, layer, heads, steps, helds, sink, recent, device)


def _losers(
    seed: int,
    layer: int | tuple[int, ...],
    heads: int,
    step: int | Tensor,
    held: int | Tensor,
    sink: int,
    recent: int,
    device: torch.device,
) -> Tensor:
    """Ranks, LongTensor shaped as those of `hashed`."""
    candidates = held - sink - recent
    if isinstance(candidates, Tensor):
        candidates = candidates.clamp(min=1)  # some that nobody asks for
    return hashed(seed, layer, heads, step, held, device) % candidates + sink


def hashed(
    seed: int,
    layer: int | tuple[int, ...],
    heads: int,
    step: int | Tensor,
    held: int | Tensor,
    device: torch.device | str,
) -> Tensor:
    """Numbers from 0 to 2**31 - 1, LongTensor [1 or batch, heads, 1 or as many as `step` or `held` has].

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
