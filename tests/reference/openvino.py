"""How OpenVINO GenAI evicts, on Python lists: start, evictable and recent areas of whole blocks; the lowest goes."""

from __future__ import annotations

POOLED = 7


def capacity(config) -> int:
    """The largest whole number of blocks and a block less one token that is within `cache_size`."""
    block = config.interval
    return max(
        size + block - 1 for size in range(0, config.cache_size + 1, block) if size + block - 1 <= config.cache_size
    )


def observe(heads: list[list], together: bool) -> None:
    """Turn what queries gave the tokens of a layer, in each entry's `given` by query, into scores.

    A query's weights are averaged over the heads; each token gets the highest of its own and the next six. A prompt's
    queries are summed before; others count one by one.
    """
    queries = sorted({query for entries in heads for entry in entries for query in entry.given})
    count = len(heads[0])
    for group in [queries] if together else [[query] for query in queries]:
        means = []
        for rank in range(count):
            means.append(sum(entries[rank].given.get(query, 0.0) for entries in heads for query in group) / len(heads))
        for entries in heads:
            for rank, entry in enumerate(entries):
                entry.total += max(means[rank : rank + POOLED])
    for entries in heads:
        for entry in entries:
            entry.given.clear()


def ranks_to_evict(config, entries: list, most: int) -> list[int]:
    """When more than `most` tokens are held: those of the blocks with the lowest scores; of equals the older."""
    block = config.interval
    full = len(entries) // block
    if len(entries) <= most:
        return []
    first, last = config.sink_size // block, full - config.recent_size // block
    scores = []
    for number in range(first, last):
        tokens = entries[number * block : (number + 1) * block]
        score = sum(token.average if config.aggregation == "norm_sum" else token.total for token in tokens)
        scores.append((score, number))
    max_cache_size = most + 1 - block
    keep = (max_cache_size - config.sink_size - config.recent_size) // block
    gone = sorted(number for _, number in sorted(scores)[: len(scores) - keep])
    return [rank for number in gone for rank in range(number * block, (number + 1) * block)]
