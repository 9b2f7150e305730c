"""Policies that read keys and values, one head at a time on lists and small arrays, as their papers or code say."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tests.reference.draws import splitmix


@dataclass
class Head:
    """What one head holds: `keys`, `values` [n, dim]; `logits` [group, m, n] of the last m queries with all n keys."""

    keys: np.ndarray
    values: np.ndarray
    logits: np.ndarray | None


@dataclass
class Moment:
    """When and where tokens are compared: how many will be kept, the position of the newest, the layer and head."""

    kept: int
    step: int
    layer: int
    head: int


#: From settings, head and moment to the importance of each token that is no sink and not recent, and any of the others.
Importance = Callable[[object, Head, Moment], list[float]]


def softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values - values.max())
    return powers / powers.sum()


def keydiff(config, head: Head, now: Moment) -> list[float]:
    unit = [key / np.linalg.norm(key) for key in head.keys]
    mean = sum(unit) / len(unit)
    return [-float(key @ mean / np.linalg.norm(mean)) for key in unit]


def lagkv(config, head: Head, now: Moment) -> list[float]:
    sinks, lag, held = config.sink_size, config.interval, len(head.keys)
    whole = (held - sinks) // lag
    importance = [2.0] * held  # what is not compared stays
    for number in range(whole - 1):
        part = list(range(sinks + number * lag, sinks + (number + 1) * lag))
        scores = np.zeros(lag)
        for each in (head.keys, head.values):
            following = each[part[-1] + 1 : part[-1] + 1 + lag]
            least, most = following.min(0), following.max(0)
            spread = np.array([((each[rank] - least) / (most - least)).std(ddof=1) for rank in part])
            scores += softmax(spread)
        for place, i in enumerate(sorted(range(lag), key=lambda i: scores[i])):
            importance[part[i]] = place / lag
    return importance


def rkv(config, head: Head, now: Moment) -> list[float]:
    window, held = config.recent_size, len(head.keys)
    before = held - window
    looks = [softmax(query) for query in head.logits.max(0)[:, :before]]  # of a group the largest product
    attention = [sum(weights[rank] for weights in looks) / window for rank in range(before)]
    attention = [max(attention[max(rank - 3, 0) : rank + 4]) for rank in range(before)]
    unit = [key / np.linalg.norm(key) for key in head.keys]
    counted = np.zeros(held)
    for i in range(held):
        cosines = [0.0 if j == i else float(unit[i] @ unit[j]) for j in range(held)]
        similar = [j for j in range(held) if cosines[j] > 0.5]
        cosines[similar[-1] if similar else 0] = 0.0
        counted += cosines
    redundancy = softmax(counted / held)
    return [0.07 * attention[r] - 0.93 * redundancy[r] for r in range(before)] + [0.0] * window


def snapkv_decode(config, head: Head, now: Moment) -> list[float]:
    window, held = config.recent_size, len(head.keys)
    seen = np.zeros(held)
    for queries in head.logits:
        for i, products in enumerate(queries):
            visible = held - window + i + 1
            seen[:visible] += softmax(products[:visible]) / len(head.logits)
    near, half = list(seen[: held - window]), config.kernel_size // 2
    pooled = []
    for rank in range(len(near)):
        around = near[max(rank - half, 0) : rank + half + 1]
        pooled.append(sum(around) / config.kernel_size if config.pooling == "average" else max(around))
    return pooled + [0.0] * window


def uniform(*parts: int) -> float:
    return (splitmix(*parts) + 0.5) / 2**31


def cur(config, head: Head, now: Moment) -> list[float]:
    dim = head.keys.shape[1]
    count = dim * 20
    drawn = []
    for i in range(count):
        first, second = (uniform(config.seed, now.layer, 0, now.step, number) for number in (i, count + i))
        drawn.append(math.sqrt(-2 * math.log(first)) * math.cos(2 * math.pi * second))
    directions = np.array(drawn).reshape(dim, 20)
    sizes = [((each @ directions) ** 2).sum(1) for each in (head.keys, head.values)]
    return (sizes[0] * sizes[1]).tolist()


def vase(config, head: Head, now: Moment) -> list[float]:
    before = len(head.keys) - config.recent_size
    looks = np.zeros(before)
    for queries in head.logits:
        mean = sum(softmax(products[:before]) for products in queries) / len(queries)
        looks += [sum(mean[max(rank - 2, 0) : rank + 3]) / 5 for rank in range(before)]
    weights = looks / len(head.logits)
    ranges = [float(value.max() - value.min()) for value in head.values[:before]]
    wide = sorted(range(before), key=lambda rank: (rank < config.sink_size, ranges[rank], rank))[
        before - now.kept // 4 :
    ]
    importance = [0.0] * len(head.keys)
    for rank in range(before):
        noise = -math.log(-math.log(uniform(config.seed, now.layer, now.head, now.step, rank)))
        importance[rank] = math.inf if rank in wide else math.log(weights[rank]) + noise
    return importance


def losers(config, importance: list[float], count: int) -> list[int]:
    """The ranks of the `count` least important tokens between sinks and recent ones; of equals the older."""
    ranks = range(config.sink_size, len(importance) - config.recent_size)
    return sorted(sorted(ranks, key=lambda rank: (importance[rank], rank))[:count])
