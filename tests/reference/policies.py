"""The eviction rules as the paper tells them, on Python lists, one head, one token at a time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Entry:
    """One cached token (or block) of one head."""

    position: int
    total: float = 0.0
    count: int = 0

    @property
    def average(self) -> float:
        return self.total / self.count


@dataclass
class Eviction:
    loser: int
    winner: int | None
    step: int


class TreeRule:
    """Section 2 of the method: compare two neighbours at the cursor, evict one, advance."""

    def __init__(self, capacity: int, sink: int, recent: int, stride: int = 1) -> None:
        self.capacity, self.sink, self.recent, self.stride = capacity, sink, recent, stride
        self.cursor = 0

    def evict_one(self, entries: list, step: int) -> Eviction:
        region = self.capacity - self.sink - self.recent
        left = self.sink + self.cursor
        right = left + 1
        if entries[left].average > entries[right].average:
            loser, winner = right, left
        else:
            loser, winner = left, right
        eviction = Eviction(entries[loser].position, entries[winner].position, step)
        del entries[loser]
        self.cursor = (self.cursor + self.stride) % region
        return eviction


class StreamingRule:
    """StreamingLLM: the first `sink` tokens and the last `capacity - sink`."""

    def __init__(self, capacity: int, sink: int) -> None:
        self.capacity, self.sink = capacity, sink

    def evict_one(self, entries: list, step: int) -> Eviction:
        loser = entries[self.sink].position
        del entries[self.sink]
        return Eviction(loser, None, step)


def make_rule(config, capacity: int | None = None):
    """The rule for a TreeKVConfig; `capacity` where it is not the cache size."""
    capacity = capacity or config.cache_size
    if config.policy == "tree":
        return TreeRule(capacity, config.sink_size, config.recent_size, config.stride)
    if config.policy == "streaming":
        return StreamingRule(capacity, config.sink_size)
    raise KeyError(config.policy)


def select_prompt(config, averages: list[float]) -> tuple[list[int], list[Eviction]]:
    """Section 4: which positions of a prompt stay in one head, given each token's average weight."""
    length, size = len(averages), config.block_size
    if length <= config.cache_size:
        return list(range(length)), []
    if config.policy == "streaming":
        last = config.cache_size - config.sink_size
        kept = [p for p in range(length) if p < config.sink_size or p >= length - last]
        return kept, []
    blocks = [list(range(first, min(first + size, length))) for first in range(0, length, size)]
    rule = TreeRule(
        config.cache_size // size,
        -(-config.sink_size // size),
        -(-config.recent_size // size),
        config.stride,
    )
    cache: list[Entry] = []
    evictions = []
    for number, block in enumerate(blocks):
        mean = sum(averages[p] for p in block) / len(block)
        if len(block) < size:
            mean = float("inf")  # a short last block is never evicted
        cache.append(Entry(number, mean, 1))
        if len(cache) > rule.capacity:
            evictions.append(rule.evict_one(cache, number))
    kept = [p for entry in cache for p in blocks[entry.position]]
    return kept, evictions
