"""The forest of absorbed tokens, followed link by link."""

from __future__ import annotations


def forest(evicted_at: list[int], survivor: list[int], step: int) -> list[dict[str, int]]:
    """parent, root, depth and size of every token up to `step`, for one head."""

    def parent(token):
        went = evicted_at[token] != -1 and evicted_at[token] <= step
        return survivor[token] if went else -1

    def ancestors(token):
        chain = []
        while parent(token) != -1:
            token = parent(token)
            chain.append(token)
        return chain

    tokens = range(step + 1)
    return [
        {
            "parent": parent(token),
            "root": [token, *ancestors(token)][-1],
            "depth": len(ancestors(token)),
            "size": 1 + sum(token in ancestors(other) for other in tokens),
        }
        for token in tokens
    ]
