"""What coming queries would look at in a prompt, judged by its own queries, moved to places after it.

A query of this kind, a little later, sees the whole prompt: so a part of the prompt's queries are rotated on to places
after its end, and attend to all of its keys.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from treekv.attention.rotary import Rotary
from treekv.policies.ranking import splitmix

EVERY: Final = 8  # of so many queries one is moved
NUMBERS_AT_ONCE: Final = 2**18  # weights that exist at a time: one megabyte, which a processor keeps near


def future_scores(
    query: Tensor, key: Tensor, scaling: float, positions: Tensor, rotary: Rotary | None, window: int, seed: int
) -> Tensor:
    """Attention weights that every 8th query of a prompt would give its tokens from a place after them.

    Args:
        query: [batch, query_heads, T, head_dim], after rotary embedding.
        key: [batch, kv_heads, T, head_dim] likewise.
        scaling: the factor of their products.
        positions: LongTensor [1 or batch, T] as the model used them.
        rotary: its rotary embedding; None for a model without, whose queries stay as they are.
        window: places are drawn from the first so many positions after the prompt, by `places_ahead`.
        seed: of the draws.

    Returns:
        float32 [batch, kv_heads, T], summed over the queries and over the query heads of a group.
    """
    length, chosen = key.shape[2], query[:, :, ::EVERY]
    if rotary is not None:
        ahead = places_ahead(length, window, seed, positions.device)
        by = positions[:, -1:] + ahead - positions[:, ::EVERY]
        chosen, key = rotary.moved(chosen, by), rotary.interleave(key)
    grouped = (chosen * scaling).unflatten(1, (key.shape[1], -1)).flatten(2, 3)
    keys = key.transpose(2, 3)
    sums = torch.zeros((*key.shape[:3],), dtype=torch.float32, device=key.device)
    for part in grouped.split(max(NUMBERS_AT_ONCE // sums.numel(), 1), dim=2):
        sums += (part @ keys).softmax(-1, dtype=torch.float32).sum(2)
    return sums


def places_ahead(length: int, window: int, seed: int, device: torch.device | str = "cpu") -> Tensor:
    """LongTensor [n]: how far after the last of `length` tokens each chosen query is moved, 1 to `window`; the same in
    all layers and heads."""
    numbers = torch.arange(0, length, EVERY, device=device)
    return splitmix(seed, 0, 1, numbers, length, device)[0, 0] % window + 1
