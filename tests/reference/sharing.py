"""Ada-KV: how many tokens of a prompt each head of a layer keeps, one token at a time."""

from __future__ import annotations


def shared(scores: list[list[float]], slots: int) -> list[int]:
    """How many each head keeps, where `scores` of the tokens that compete are a list for each head and an equal share
    would be `slots`. A fifth of it, and one token of it, are safe in each head; then the highest score of all is taken
    until as many are kept as with equal shares. Of equals in several heads that of the last head goes first."""
    safe = min(max(slots // 5, 1), slots)
    waiting = [sorted(each, reverse=True)[safe:] for each in scores]
    kept = [safe for _ in scores]
    while sum(kept) < slots * len(scores):
        best = max(head[0] for head in waiting if head)
        chosen = max(h for h, head in enumerate(waiting) if head and head[0] == best)
        waiting[chosen].pop(0)
        kept[chosen] += 1
    return kept
