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


def observed_attention(
    query: Tensor, keys: list[Tensor], values: list[Tensor], scaling: float, visible: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Attention with its weights, over keys and values that lie in several places.

    `query` [batch, query_heads, q, head_dim] with query_heads = kv_heads * group; each of `keys`, `values` [batch,
    kv_heads, n_i, head_dim]. The queries are the last q of all n tokens and see them causally; `visible` bool [batch,
    n] says for single queries which tokens there are.

    Returns the output [batch, query_heads, q, value_dim] and float32 weights [batch, kv_heads, group, q, n].
    """
    batch, heads, q, _ = query.shape
    weights = attention_weights(query, keys, scaling, visible)
    flat = weights.view(batch, weights.shape[1], -1, weights.shape[4])
    output, first = None, 0
    for value in values:
        share = flat[..., first : first + value.shape[2]].to(value.dtype)
        share = share * value if value.shape[2] == 1 else share @ value
        output = share if output is None else output.add_(share)
        first += value.shape[2]
    assert output is not None
    return output.view(batch, heads, q, output.shape[3]), weights


def attention_weights(query: Tensor, keys: list[Tensor], scaling: float, visible: Tensor | None = None) -> Tensor:
    """float32 weights [batch, kv_heads, group, q, n] of the last q of n tokens, causal; see `observed_attention`."""
    batch, heads, q, dim = query.shape
    kv_heads = keys[0].shape[1]
    group = heads // kv_heads
    grouped = query.reshape(batch, kv_heads, group * q, dim) * scaling
    # Of one key or value a product by elements is the same and costs less than starting a matrix product.
    parts = [
        (grouped * key).sum(-1, keepdim=True) if key.shape[2] == 1 else grouped @ key.transpose(2, 3) for key in keys
    ]
    logits = (parts[0] if len(parts) == 1 else torch.cat(parts, dim=3)).view(batch, kv_heads, group, q, -1)
    if q > 1:
        logits = logits.masked_fill(~causal_mask(q, logits.shape[4], logits.device), float("-inf"))
    if visible is not None:
        logits = logits.masked_fill(~visible[:, None, None, None], float("-inf"))
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
        weights = attention_weights(query[:, :, first:last], [key[:, :, :last]], scaling)
        sums[..., :last] += weights.mean(2).sum(2)
    position = torch.arange(length, device=key.device)
    counts = torch.minimum(length - position, torch.tensor(window, device=key.device)).float()
    return sums, counts[None, None]
