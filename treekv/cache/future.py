"""What coming queries would look at in a prompt, judged by its own queries, moved to places after it.

A query of this kind, a little later, sees the whole prompt: so a part of the prompt's queries are rotated on to places
after its end, and attend to all of its keys.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

import torch
from torch import Tensor

from treekv.attention.rotary import Rotary
from treekv.attention.softmax import Scoring
from treekv.policies.ranking import splitmix
from treekv.policies.scores import EXPECTED
from treekv.policies.settings import ENERGY, Settings

PLACES: Final = 512  # that follow a prompt, over which rotations are averaged for what is expected
EVERY: Final = 8  # of so many queries one is moved for a sum,
MOST_QUERIES: Final = 512  # and of more where that would be more than these: a sample is enough, and costs less
# Squares count what single queries want, of which a sample misses most. A head that keeps few tokens has no room for
# most of that, and needs fewer queries.
QUERIES_A_SLOT: Final = 4
MOST_SQUARED: Final = 2048
NUMBERS_AT_ONCE: Final = 2**20  # weights that exist at a time: few enough to stay in a processor's cache


def scores_from_after(
    by: str, settings: Settings, query: Tensor, key: Tensor, scoring: Scoring, positions: Tensor, rotary: Rotary | None
) -> Tensor:
    """What queries from the places after a prompt see of it, by `Policy.future_by`; the rest as of `future_scores`."""
    if by == EXPECTED:
        return expected_scores(query, key, scoring.scaling, positions, rotary, settings.sink_size)
    every, squared = distance_of_queries(settings, key.shape[2]), settings.future_reduction == ENERGY
    window, seed = settings.future_window, settings.seed
    return future_scores(query, key, scoring, positions, rotary, window, seed, every, squared=squared)


def future_key(by: str, settings: Settings, length: int) -> Hashable:
    """What scores of a prompt of so many tokens depend on: settings that agree in it have the same."""
    if by == EXPECTED:
        return by, settings.sink_size
    every = distance_of_queries(settings, length)
    return by, every, settings.future_reduction, settings.future_window, settings.seed


def future_scores(
    query: Tensor,
    key: Tensor,
    scoring: Scoring,
    positions: Tensor,
    rotary: Rotary | None,
    window: int,
    seed: int,
    every: int,
    *,
    squared: bool,
) -> Tensor:
    """Attention weights that some of a prompt's queries would give its tokens from after its end.

    Args:
        query: [batch, query_heads, T, head_dim], after rotary embedding.
        key: [batch, kv_heads, T, head_dim] likewise.
        scoring: how their products become weights.
        positions: LongTensor [1 or batch, T] as the model used them.
        rotary: its rotary embedding; None for a model without, whose queries stay as they are.
        window: places are drawn from the first so many positions after the prompt, by `places_ahead`.
        seed: of the draws.
        every: from one of these queries to the next; the first token's is one of them.
        squared: the sum of the squares of the weights of each token instead of their sum.

    Returns:
        float32 [batch, kv_heads, T], over the queries and the query heads of a group.
    """
    length = key.shape[2]
    chosen = query[:, :, ::every]
    if rotary is not None:
        ahead = places_ahead(length, every, window, seed, positions.device)
        by = positions[:, -1:] + ahead - positions[:, ::every]
        chosen, key = rotary.moved(chosen, by), rotary.interleave(key)
    grouped = (chosen * scoring.scaling).unflatten(1, (key.shape[1], -1)).flatten(2, 3)
    keys = key.transpose(2, 3).contiguous()
    scores = torch.zeros(key.shape[:3], dtype=torch.float32, device=key.device)
    at_once = min(max(NUMBERS_AT_ONCE // scores.numel(), 1), grouped.shape[2])
    # The same memory for all parts: fresh memory is what they would pay for most.
    products = grouped.new_empty((*key.shape[:2], at_once, length))
    logits = products if products.dtype == torch.float32 else products.float()
    weights = torch.empty_like(logits)
    sinks = None if scoring.sink is None else scoring.sinks(key.shape[1], chosen.shape[2]).split(at_once, dim=2)
    for number, part in enumerate(grouped.split(at_once, dim=2)):
        now = slice(0, part.shape[2])
        torch.matmul(part, keys, out=products[:, :, now])
        if logits is not products:
            logits[:, :, now] = products[:, :, now]
        if scoring.softcap is not None:
            logits[:, :, now].div_(scoring.softcap).tanh_().mul_(scoring.softcap)
        torch.softmax(logits[:, :, now], -1, out=weights[:, :, now])
        if sinks is not None:  # what the sink leaves
            share = (logits[:, :, now].logsumexp(-1) - sinks[number]).sigmoid()
            weights[:, :, now] *= share[..., None]
        if squared:
            weights[:, :, now].square_()
        scores += weights[:, :, now].sum(2)
    return scores


def expected_scores(
    query: Tensor, key: Tensor, scaling: float, positions: Tensor, rotary: Rotary | None, sinks: int
) -> Tensor:
    """Expected Attention: mean weights from queries that are drawn from a normal distribution, in closed form.

    The logarithm of the mean of exp(q k) over such queries is mu k + k Sigma k / 2, with the mean and the covariance of
    the prompt's queries, turned by the mean rotation of the places that follow.

    Args:
        query, key, positions, rotary: as of `future_scores`.
        scaling: the factor of their products, which are logits as they are.
        sinks: the first so many tokens are left out, as queries and of the softmax.

    Returns:
        float32 [batch, kv_heads, T], averaged over the query heads of a group; 0 for the sinks.
    """
    query = query.float()
    if rotary is not None:
        following = positions[:, -1:] + 1 + torch.arange(PLACES, device=positions.device)
        query = rotary.turned_by_mean(rotary.unrotated(query, positions), following)
        key = rotary.interleave(key)
    query, key = query[:, :, sinks:] * scaling, key[:, :, sinks:].float()
    mean = query.mean(2, keepdim=True)
    query, mean = ((query - mean).unflatten(1, (key.shape[1], -1)), mean.unflatten(1, (key.shape[1], -1)))
    covariance = query.transpose(3, 4) @ query / query.shape[3]  # [batch, kv_heads, group, dim, dim]
    logits = (mean @ key[:, :, None].transpose(3, 4))[:, :, :, 0]
    logits += ((key[:, :, None] @ covariance) * key[:, :, None]).sum(4) / 2
    return torch.nn.functional.pad(logits.softmax(3).mean(2), (sinks, 0))


def distance_of_queries(settings: Settings, length: int) -> int:
    """From one query of a prompt of `length` tokens that is moved to the next."""
    if settings.future_reduction == ENERGY:
        return -(-length // min(QUERIES_A_SLOT * settings.cache_size, MOST_SQUARED))
    return max(EVERY, -(-length // MOST_QUERIES))


def places_ahead(length: int, every: int, window: int, seed: int, device: torch.device | str = "cpu") -> Tensor:
    """LongTensor [n]: how far after the last of `length` tokens every so many queries are moved, 1 to `window`; the
    same in all layers and heads."""
    numbers = torch.arange(0, length, every, device=device)
    return splitmix(seed, 0, 1, numbers, length, device)[0, 0] % window + 1
