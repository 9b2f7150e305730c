"""How a prompt is reduced by what queries after it see: policy "tree" with prompt_score "future", and "expected"; on
Python lists, one token at a time."""

from __future__ import annotations

import math

import numpy as np

from tests.reference.draws import splitmix


def expected_weights(queries, keys, values, sinks: int) -> list[float]:
    """Expected Attention of one head: `queries` [group, T, dim] before rotary embedding, keys [T, dim] at their true
    positions; the rotation to the 512 places after the prompt is applied as a matrix, the mean over them."""
    group, length, dim = queries.shape
    half = dim // 2
    mean_rotation = np.zeros((dim, dim))
    for place in range(length, length + 512):
        for i in range(half):
            angle = place * 10000.0 ** (-i / half)
            cos, sin = math.cos(angle) / 512, math.sin(angle) / 512
            mean_rotation[i, i] += cos
            mean_rotation[i, i + half] -= sin
            mean_rotation[i + half, i] += sin
            mean_rotation[i + half, i + half] += cos
    total = np.zeros(length)
    for query in queries:
        own = query[sinks:] @ mean_rotation.T
        mu = own.mean(0)
        sigma = sum(np.outer(q - mu, q - mu) for q in own) / len(own)
        exponents = np.array([k @ mu / dim**0.5 + k @ sigma @ k / (2 * dim) for k in keys[sinks:]])
        powers = np.exp(exponents - exponents.max())
        total[sinks:] += powers / powers.sum() / group
    return [float(weight * np.linalg.norm(value)) for weight, value in zip(total, values)]


def largest_future(config, heads: list[list]) -> list[list[int]]:
    """Sinks, recent tokens, and between them the largest."""
    last = len(heads[0]) - config.recent_size
    kept = []
    for entries in heads:
        ranked = sorted(range(config.sink_size, last), key=lambda p: (entries[p].future, p))
        chosen = ranked[len(ranked) - config.region_size :]
        kept.append(sorted([*range(config.sink_size), *chosen, *range(last, len(entries))]))
    return kept


def rotated(vector: list[float], position: int, frequencies: list[float]) -> list[float]:
    """The first half of the rotary dimensions against the second half; the rest stays."""
    half = len(frequencies)
    turned = list(vector)
    for i, frequency in enumerate(frequencies):
        angle = position * frequency
        first, second = vector[i], vector[half + i]
        turned[i] = first * math.cos(angle) - second * math.sin(angle)
        turned[half + i] = second * math.cos(angle) + first * math.sin(angle)
    return turned


def place(number: int, length: int, window: int, seed: int) -> int:
    """Where query `number` of a prompt is moved to: one of the `window` positions after its last."""
    return length + splitmix(seed, 0, 0, length, number) % window


def distance(config, length: int) -> int:
    """One of how many queries of a prompt is moved: every 8th, for squares as few or as many as make 4 for each token
    that is kept; of long prompts fewer."""
    if config.future_reduction == "sum":
        return max(8, math.ceil(length / 512))
    return math.ceil(length / min(4 * config.cache_size, 2048))


def future(
    queries,
    keys,
    scaling: float,
    frequencies: list[float],
    window: int,
    seed: int,
    every: int = 8,
    squared: bool = False,
    softcap: float | None = None,
    sinks: list[float] | None = None,
):
    """F of one KV head. `queries` has one list of T unrotated queries for each query head of its group, `keys` T
    unrotated keys, and every so many queries are moved; `frequencies` is empty for a model without rotary positions.
    Weights are summed, or their squares.
    `sinks` has one logit for each query head, which belongs to no key."""
    length = len(keys)
    turned = [rotated(key, j, frequencies) for j, key in enumerate(keys)]
    scores = [0.0] * length
    for number, own in enumerate(queries):
        for i in range(0, length, every):
            query = rotated(own[i], place(i, length, window, seed), frequencies)
            logits = [scaling * sum(a * b for a, b in zip(query, key)) for key in turned]
            if softcap is not None:
                logits = [softcap * math.tanh(logit / softcap) for logit in logits]
            if sinks is not None:
                logits.append(sinks[number])
            top = max(logits)
            powers = [math.exp(logit - top) for logit in logits]
            for j in range(length):
                weight = powers[j] / sum(powers)
                scores[j] += weight**2 if squared else weight
    return scores


def pooled_forward(scores: list[float], kernel: int) -> list[float]:
    """The mean over a token and those before it; before the first there are zeros."""
    return [sum(scores[max(j - kernel + 1, 0) : j + 1]) / kernel for j in range(len(scores))]


def choose(config, pooled: list[float], scores: list[float]) -> tuple[list[int], dict[int, int]]:
    """Which positions of a prompt one head keeps, and who beat each of the others: `pooled` are the smoothed scores of
    the observation window for what is neither sink nor recent, `scores` the future-shifted ones of all tokens."""
    length, size = len(scores), config.cache_size
    sinks = list(range(config.sink_size))
    recents = list(range(length - config.recent_size, length))
    middle = list(range(config.sink_size, length - config.recent_size))
    free = size - len(sinks) - len(recents)
    share = math.floor(config.window_share * free)
    taken = sorted(middle, key=lambda j: (pooled[j - len(sinks)], j))[len(middle) - share :]
    slots = free - share
    held: list[int] = []
    won_by = {}
    cursor = evicted = 0
    for token in middle:
        if token in taken:
            continue
        held.append(token)
        if len(held) <= slots:
            continue
        if config.max_height and cursor == 0:
            cursor = start_of_sweep(evicted, config.max_height, slots)
        competing = held[cursor : min(cursor + config.prompt_scope, slots + 1)]
        loser = min(competing, key=lambda j: (scores[j], j))
        winner = max((j for j in competing if j != loser), key=lambda j: (scores[j], j))
        won_by[loser] = winner
        held.remove(loser)
        evicted += 1
        cursor = (cursor + config.stride) % slots
    return sorted(sinks + taken + held + recents), won_by


def start_of_sweep(evicted: int, height: int, ranks: int) -> int:
    """docs/method.md, tree height."""

    def level(n: int) -> int:
        found = height
        while max(n - (height - 1) * ranks, 0) >> found > ranks >> 1:
            found += 1
        return found

    if level(evicted + ranks) > level(evicted):
        return 0
    return max(evicted - (height - 1) * ranks, 0) >> level(evicted)
