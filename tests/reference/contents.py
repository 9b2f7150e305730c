"""Policies that read keys and values, one head at a time on lists and small arrays, as their papers or code say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


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


def keydiff(config, head: Head, now: Moment) -> list[float]:
    unit = [key / np.linalg.norm(key) for key in head.keys]
    mean = sum(unit) / len(unit)
    return [-float(key @ mean / np.linalg.norm(mean)) for key in unit]


def losers(config, importance: list[float], count: int) -> list[int]:
    """The ranks of the `count` least important tokens between sinks and recent ones; of equals the older."""
    ranks = range(config.sink_size, len(importance) - config.recent_size)
    return sorted(sorted(ranks, key=lambda rank: (importance[rank], rank))[:count])
