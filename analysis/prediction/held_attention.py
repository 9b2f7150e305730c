"""Attention in which every head sees, at each query, only what it held at that step.

Token j is visible to the query at t if j <= t and t <= evicted_at[j]: the token that is evicted while t is processed
is still seen by t. No T x T mask is ever built. The queries of a block read the keys that at least one of them sees,
which with a cache of c tokens are about c and two blocks more, of however many.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from treekv.attention import softmax

QUERIES_AT_ONCE = 128


def held_attention(query: Tensor, key: Tensor, value: Tensor, scaling: float, evicted_at: np.ndarray | None) -> Tensor:
    """Attention outputs of all T tokens, [query_heads, T, value_dim].

    Args:
        query: [query_heads, T, head_dim].
        key, value: [kv_heads, T, head_dim], [kv_heads, T, value_dim].
        scaling: the factor before the softmax.
        evicted_at: int [kv_heads, T], the position of the token that was processed when each one went, -1 if it
            stayed; None where nothing is evicted.
    """
    if evicted_at is None:
        return softmax.causal_attention(query[None], key[None], value[None], softmax.Scoring(scaling))[0]
    heads, tokens, _ = key.shape
    until = np.where(evicted_at < 0, tokens, evicted_at).astype(np.int64)
    grouped = query.unflatten(0, (heads, -1))
    output = query.new_empty((*grouped.shape[:3], value.shape[2]))
    for first in range(0, tokens, QUERIES_AT_ONCE):
        last = min(first + QUERIES_AT_ONCE, tokens)
        position, visible = _visible(until, first, last)
        index, mask = torch.from_numpy(position).to(key.device), torch.from_numpy(visible).to(key.device)
        keys, values = (_rows(x, index)[:, None] for x in (key, value))
        queries = grouped[:, :, first:last]
        group = queries.shape[1]
        if not key.is_cpu:  # other kernels would not share keys among the query heads of a group
            keys, values = keys.expand(-1, group, -1, -1), values.expand(-1, group, -1, -1)
        output[:, :, first:last] = torch.nn.functional.scaled_dot_product_attention(
            queries, keys, values, attn_mask=mask[:, None], scale=scaling, enable_gqa=key.is_cpu and group > 1
        )
    return output.flatten(0, 1)


def _rows(tensor: Tensor, index: Tensor) -> Tensor:
    """[heads, n, dim] from [heads, T, dim] by `index` [heads, n]."""
    heads, tokens, dim = tensor.shape
    at = index + torch.arange(heads, device=index.device)[:, None] * tokens
    return tensor.reshape(heads * tokens, dim).index_select(0, at.flatten()).view(heads, -1, dim)


def _visible(until: np.ndarray, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
    """What the queries first ... last - 1 see, by `until` [heads, T], the last query that sees each token.

    Returns the positions that any query of a head sees, [heads, n], and bool [heads, q, n], which query sees which.
    """
    heads = len(until)
    seen = [np.flatnonzero(each[:last] >= first) for each in until]
    most = max(len(positions) for positions in seen)
    position = np.zeros((heads, most), np.int64)
    leaves = np.full((heads, most), -1, np.int64)  # heads that hold fewer read the first key again, to no effect
    for head, positions in enumerate(seen):
        position[head, : len(positions)] = positions
        leaves[head, : len(positions)] = until[head, positions]
    query = np.arange(first, last)[:, None]
    return position, (position[:, None] <= query) & (query <= leaves[:, None])
