"""What policy "tree" keeps of a prompt with prompt_score "future": two choices, by what was seen and what will be."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from treekv.policies.contest import sweep_start
from treekv.policies.pooling import smooth
from treekv.policies.ranking import highest, with_protected, without
from treekv.policies.scores import Prompt, Selection
from treekv.policies.settings import Settings


class _Swept(NamedTuple):
    """Indices, each in the order in which it was decided: what is kept, what lost, and the winner of each loser."""

    kept: list[int]
    losers: list[int]
    winners: list[int]


@torch.compiler.disable(reason="contests of a prompt are made one by one, on lists")
def choose_tokens(settings: Settings, prompt: Prompt, region: int) -> Selection:
    """The tokens of a prompt that each head keeps, `region` of them beside sinks and recent tokens.

    Sinks and recent tokens stay. Of the slots between, a share goes to the tokens with the highest score of the
    observation window, pooled over the tokens between; the others go through the tree rule from left to right, compared
    by `prompt.future`.
    """
    assert prompt.sums is not None and prompt.future is not None  # the policy uses attention and scores the future
    first, last = settings.sink_size, prompt.length - settings.recent_size
    # Without the sinks: they are kept anyway, and their large weights would lift nothing but the tokens after them.
    pooled = smooth(prompt.sums[..., first:last], settings.kernel_size, settings.pooling)
    taken = highest(pooled, window_slots(settings, region))
    positions = torch.arange(last - first, device=prompt.device).expand_as(pooled)
    others = without(positions, taken)
    slots = region - taken.shape[2]
    swept = [
        sweep(scores, slots, settings.prompt_scope, settings.stride, settings.max_height or 0, prompt.traced)
        for scores in prompt.future[..., first:last].gather(2, others).flatten(0, 1).tolist()
    ]
    chosen = others.gather(2, _by_head([own.kept for own in swept], prompt))
    kept = torch.cat([taken, chosen], dim=2).sort(2).values + first
    survivors = None
    if prompt.traced:
        losers, winners = (
            others.gather(2, _by_head(lists, prompt)) + first
            for lists in ([own.losers for own in swept], [own.winners for own in swept])
        )
        survivors = losers.new_full((*losers.shape[:2], prompt.length), -1).scatter(2, losers, winners)
    return Selection(with_protected(kept, first, last, prompt.length), survivors)


def window_slots(settings: Settings, region: int) -> int:
    """How many tokens of `region` are chosen by the observation window; fewer than all."""
    return int(settings.window_share * region)


def sweep(scores: list[float], slots: int, scope: int, stride: int, height: int, traced: bool) -> _Swept:
    """Tokens arrive one by one; when there is one too many, the weakest of `scope` from the cursor on goes, the oldest
    of equals. The cursor runs over all `slots`; where fewer than `scope` tokens are left, these compete."""
    # Lists, since each contest depends on the one before, and a few heads are too few to fill a tensor.
    held, values = list(range(slots)), scores[:slots]
    losers: list[int] = []
    winners: list[int] = []
    cursor = 0
    for token in range(slots, len(scores)):
        held.append(token)
        values.append(scores[token])
        if height and cursor == 0:
            cursor = sweep_start(height, slots, token - slots)
        window = values[cursor : cursor + scope]
        loser = window.index(min(window))
        losers.append(held[cursor + loser])
        if traced:
            del window[loser]
            window.reverse()
            best = len(window) - 1 - window.index(max(window))  # the newest of equals
            winners.append(held[cursor + best + (best >= loser)])
        del held[cursor + loser], values[cursor + loser]
        cursor = (cursor + stride) % slots
    return _Swept(held, losers, winners)


def _by_head(lists: list[list[int]], prompt: Prompt) -> Tensor:
    """LongTensor [batch, kv_heads, n] of the lists of all heads of all rows."""
    assert prompt.future is not None
    return torch.tensor(lists, device=prompt.device).unflatten(0, prompt.future.shape[:2])
