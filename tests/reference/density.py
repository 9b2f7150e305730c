"""The tree's ideal density by playing the game: many caches, every comparison a toss of a coin."""

from __future__ import annotations

import random

from tests.reference.policies import frozen


def tossed_density(
    size: int, sink: int, recent: int, stride: int, tokens: int, games: int, height: int | None = None
) -> list[float]:
    """Share of `games` in which each position is held after `tokens` tokens."""
    dice = random.Random(0)
    region = size - sink - recent
    count = [0] * tokens
    for _ in range(games):
        cache, cursor = [], 0
        for token in range(tokens):
            cache.append(token)
            if len(cache) > size:
                evicted = token + 1 - len(cache)
                if height and cursor == 0:
                    count_frozen, level = frozen(evicted, height, region)
                    if frozen(evicted + region, height, region)[1] == level:
                        cursor = count_frozen
                del cache[sink + cursor + dice.randrange(2)]
                cursor = (cursor + stride) % region
        for token in cache:
            count[token] += 1
    return [number / games for number in count]
