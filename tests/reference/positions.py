"""The positions at which kept tokens are seen, written out, counted from the first token of the block that is read."""

from __future__ import annotations

import math

NEAR = 128  # w of compressed positions


def seen_at(distance: int) -> int:
    """At which distance a token is seen that stands `distance` tokens before another."""
    return distance if distance <= NEAR else round(NEAR * (1 + 2 * math.log(distance / NEAR)))


def places(true: list[int], first: int, rule: str) -> list[int]:
    """Of tokens at the `true` positions, the last of which is the query; the block starts at the position `first`."""
    if rule == "rank":
        return list(range(len(true)))
    if rule == "original":
        return [position - first for position in true]
    return [position - first if position >= first else -seen_at(first - position) for position in true]
