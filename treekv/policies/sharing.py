"""How the KV heads of a layer share what they may keep of a prompt, as Ada-KV does."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from treekv.policies.ranking import highest

#: Each head keeps at least a fifth of an equal share, and at least one token of it.
LEAST_PART: Final = 5


def shared_slots(scores: Tensor, slots: int) -> Tensor:
    """How many tokens each head keeps, if together they keep `slots` for each head.

    Feng et al., "Ada-KV: Optimizing KV Cache Eviction by Adaptive Budget Allocation for Efficient LLM Inference", 2024
    (arXiv 2407.11550). The best tokens of each head are safe, a fifth of an equal share; beside them those with the
    highest scores in all heads are kept. Of equal scores those of later heads are.

    Args:
        scores: float32 [batch, kv_heads, n], attention that the heads gave to the tokens that compete, comparable
            between heads.
        slots: for each head, at most n.

    Returns:
        LongTensor [batch, kv_heads], with the sum kv_heads * slots.
    """
    batch, heads, _ = scores.shape
    least = min(max(slots // LEAST_PART, 1), slots)
    rest = scores.sort(dim=2, descending=True).values[..., least:]
    if slots == least or not rest.shape[2]:
        return torch.full((batch, heads), slots, device=scores.device)
    best = highest(rest.flatten(1)[:, None], heads * (slots - least))[:, 0]
    whose = torch.div(best, rest.shape[2], rounding_mode="floor")
    more = torch.zeros((batch, heads), dtype=torch.long, device=scores.device)
    return more.scatter_add_(1, whose, torch.ones_like(whose)) + least
