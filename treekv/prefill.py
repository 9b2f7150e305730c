"""What a prompt's observation window saw: scores without a T x T matrix."""

from __future__ import annotations

import torch
from torch import Tensor

QUERIES_AT_ONCE = 256  # bounds the masks and weights that exist at one time to this many rows


def causal_attention(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    """Attention of the last q of T tokens to all T, causally: [batch, query_heads, q, head_dim].

    `query` [batch, query_heads, q, head_dim]; `key`, `value` [batch, kv_heads, T, head_dim], q <= T.
    """
    q, length = query.shape[2], key.shape[2]
    if q == length:
        return torch.nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scaling, enable_gqa=query.shape[1] != key.shape[1]
        )
    outputs = []
    for first in range(0, q, QUERIES_AT_ONCE):
        part = query[:, :, first : first + QUERIES_AT_ONCE]
        visible = length - q + first + part.shape[2]
        outputs.append(
            torch.nn.functional.scaled_dot_product_attention(
                part,
                key[:, :, :visible],
                value[:, :, :visible],
                attn_mask=causal_mask(part.shape[2], visible, query.device),
                scale=scaling,
                enable_gqa=query.shape[1] != key.shape[1],
            )
        )
    return torch.cat(outputs, dim=2)


def causal_mask(q: int, length: int, device: torch.device) -> Tensor:
    """bool [q, length]: whether each of the last q of `length` tokens sees each token."""
    return torch.ones(q, length, dtype=torch.bool, device=device).tril(length - q)


def attention_weights(query: Tensor, key: Tensor, scaling: float) -> Tensor:
    """float32 weights [batch, kv_heads, group, q, T] of the last q of T tokens, causal.

    `query` [batch, query_heads, q, head_dim] with query_heads = kv_heads * group, `key` [batch, kv_heads, T,
    head_dim].
    """
    batch, heads, q, dim = query.shape
    kv_heads, length = key.shape[1], key.shape[2]
    grouped = query.reshape(batch, kv_heads, heads // kv_heads * q, dim) * scaling
    logits = (grouped @ key.transpose(2, 3)).view(batch, kv_heads, heads // kv_heads, q, length)
    if q > 1:
        logits = logits.masked_fill(~causal_mask(q, length, key.device), float("-inf"))
    return logits.softmax(-1, dtype=torch.float32)


def window_scores(query: Tensor, key: Tensor, scaling: float, window: int) -> tuple[Tensor, Tensor]:
    """What the last `window` queries of a prompt saw of each token.

    Returns the weights summed over the window and averaged over the query heads of a group, float32 [batch,
    kv_heads, T], and how many of the window's queries could see the token, float32 [1, 1, T].
    """
    length = key.shape[2]
    window = min(window, length)
    sums = key.new_zeros((*key.shape[:2], length), dtype=torch.float32)
    for first in range(length - window, length, QUERIES_AT_ONCE):
        last = min(first + QUERIES_AT_ONCE, length)
        weights = attention_weights(query[:, :, first:last], key[:, :, :last], scaling)
        sums[..., :last] += weights.mean(2).sum(2)
    position = torch.arange(length, device=key.device)
    counts = torch.minimum(length - position, torch.tensor(window, device=key.device)).float()
    return sums, counts[None, None]
