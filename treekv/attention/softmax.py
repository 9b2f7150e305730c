"""Attention, with its weights where they are recorded, and the scores of a prompt without a T x T matrix."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

QUERIES_AT_ONCE = 256  # bounds masks and weights to this many rows at a time


class Scoring(NamedTuple):
    """From products of queries and keys to attention weights.

    Attributes:
        scaling: the factor of the products, which makes them logits.
        softcap: logits l become softcap * tanh(l / softcap), as in Gemma 2; None leaves them.
        sink: [1 or batch, query_heads], a logit that takes part in each head's softmax and belongs to no token, as in
            gpt-oss, so that the weights of the tokens add up to less than one; None for no such logit.
    """

    scaling: float
    softcap: float | None = None
    sink: Tensor | None = None

    @property
    def is_plain(self) -> bool:
        """Whether PyTorch's own attention computes it."""
        return self.softcap is None and self.sink is None

    def of_rows(self, rows: slice) -> Scoring:
        """The same of some rows of the batch."""
        return self if self.sink is None or self.sink.shape[0] == 1 else self._replace(sink=self.sink[rows])

    def sinks(self, kv_heads: int, q: int) -> Tensor:
        """The sink of each of q queries, float32 [1 or batch, kv_heads, group * q]."""
        assert self.sink is not None
        return self.sink.float().unflatten(1, (kv_heads, -1)).repeat_interleave(q, 2)


def causal_attention(
    query: Tensor, key: Tensor, value: Tensor, scoring: Scoring, visible: Tensor | None = None
) -> Tensor:
    """Attention of the last q of T tokens to all T, causally: [batch, query_heads, q, value_dim].

    `query` [batch, query_heads, q, head_dim]; `key`, `value` [batch, kv_heads, T, head_dim], q <= T; `visible` bool,
    broadcast to [batch, kv_heads, 1, T], says for single queries what they see.
    """
    q, length, scaling = query.shape[2], key.shape[2], scoring.scaling
    if not scoring.is_plain:
        return _in_parts(query, key, value, scoring, visible)
    attention = torch.nn.functional.scaled_dot_product_attention
    if q == length or q == 1:
        key, value, gqa = _grouped(query, key, value, masked=False)
        return attention(query, key, value, attn_mask=visible, is_causal=q > 1, scale=scaling, enable_gqa=gqa)
    key, value, gqa = _grouped(query, key, value, masked=True)
    outputs = []
    for first in range(0, q, QUERIES_AT_ONCE):
        part = query[:, :, first : first + QUERIES_AT_ONCE]
        seen = length - q + first + part.shape[2]
        mask = causal_mask(part.shape[2], seen, query.device)
        now = (part, key[:, :, :seen], value[:, :, :seen])
        outputs.append(attention(*now, attn_mask=mask, scale=scaling, enable_gqa=gqa))
    return torch.cat(outputs, dim=2)


def explicit_attention(
    query: Tensor, key: Tensor, value: Tensor, scoring: Scoring, mask: Tensor | None, dropout: float = 0.0
) -> Tensor:
    """Attention of layers that transformers caches, where PyTorch's own would leave out what `scoring` has.

    `mask` bool, broadcast to [batch, 1, q, T], what each query sees; None for causal attention of the last q of T.
    """
    if mask is None:
        return _in_parts(query, key, value, scoring, None, dropout)
    outputs = []
    for first in range(0, query.shape[2], QUERIES_AT_ONCE):
        part = query[:, :, first : first + QUERIES_AT_ONCE]
        seen = mask[:, :, first : first + QUERIES_AT_ONCE]
        seen = seen | ~seen.any(-1, keepdim=True)  # padding sees nothing, which would make its output NaN
        outputs.append(_output(part, key, value, scoring, seen, dropout))
    return torch.cat(outputs, dim=2)


def _in_parts(
    query: Tensor, key: Tensor, value: Tensor, scoring: Scoring, visible: Tensor | None, dropout: float = 0.0
) -> Tensor:
    """`causal_attention` by its weights, some queries at a time."""
    q, length = query.shape[2], key.shape[2]
    if q == 1:
        return _output(query, key, value, scoring, visible, dropout)
    outputs = []
    for first in range(0, q, QUERIES_AT_ONCE):
        part = query[:, :, first : first + QUERIES_AT_ONCE]
        seen = length - q + first + part.shape[2]
        mask = causal_mask(part.shape[2], seen, query.device)
        outputs.append(_output(part, key[:, :, :seen], value[:, :, :seen], scoring, mask, dropout))
    return torch.cat(outputs, dim=2)


def _output(
    query: Tensor, key: Tensor, value: Tensor, scoring: Scoring, visible: Tensor | None, dropout: float
) -> Tensor:
    weights = torch.nn.functional.dropout(attention_weights(query, key, scoring, visible), dropout)
    return (weights.to(value.dtype) @ value).view(*query.shape[:3], value.shape[3])


def _grouped(query: Tensor, key: Tensor, value: Tensor, *, masked: bool) -> tuple[Tensor, Tensor, bool]:
    """Keys and values for SDPA, and whether SDPA shares them among a group of query heads.

    Beside the CPU's, only kernels for half precision do that, without a mask and for heads of up to 256 channels; for
    the rest SDPA would compute all q x T weights at once. Repeated keys take less than that.
    """
    group = query.shape[1] // key.shape[1]
    shares = (
        key.is_cpu
        or query.shape[2] == 1
        or (not masked and key.dtype != torch.float32 and key.shape[3] == value.shape[3] <= 256)
    )
    if group == 1 or shares:
        return key, value, group > 1
    return key.repeat_interleave(group, 1), value.repeat_interleave(group, 1), False


def causal_mask(q: int, length: int, device: torch.device) -> Tensor:
    """bool [q, length]: whether each of the last q of `length` tokens sees each token."""
    return torch.ones(q, length, dtype=torch.bool, device=device).tril(length - q)


def visible(distance: Tensor | None, q: int, all_used: bool) -> Tensor | None:
    """What q new tokens see: bool [rows, heads, q, n], themselves and earlier tokens, but no free slot; None if that
    is all. `distance` [rows, heads, n] and `all_used` are those of `treekv.cache.slot_plan.SlotPlan`."""
    if q == 1 and all_used:
        return None
    assert distance is not None  # a plan with free slots or several tokens has it
    if q == 1:
        return distance[:, :, None] >= 0
    later = torch.arange(q - 1, -1, -1, device=distance.device)  # new tokens after each
    return distance[:, :, None] >= later[:, None]


def masked_attention(
    query: Tensor, key: Tensor, value: Tensor, scoring: Scoring, visible: Tensor | None = None
) -> Tensor:
    """`observed_attention` without the weights: the fused kernel computes none that could be recorded. Where attention
    is plain, `visible` may also be what is added to logits, in the dtype of `query`."""
    if not scoring.is_plain:
        return observed_attention(query, key, value, scoring, visible)[0]
    if visible is not None and query.shape[2] == 1 and query.shape[1] > key.shape[1]:
        # The query heads of a group see the same tokens, so they are to SDPA as several queries of one head.
        group = query.squeeze(2).unflatten(1, (key.shape[1], -1))
        output = torch.nn.functional.scaled_dot_product_attention(
            group, key, value, attn_mask=visible, scale=scoring.scaling
        )
        return output.flatten(1, 2)[:, :, None]
    key, value, gqa = _grouped(query, key, value, masked=visible is not None)
    if visible is not None and visible.shape[1] > 1:
        visible = visible.repeat_interleave(query.shape[1] // visible.shape[1], 1)
    return torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=visible, scale=scoring.scaling, enable_gqa=gqa
    )


def observed_attention(
    query: Tensor, key: Tensor, value: Tensor, scoring: Scoring, visible: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Attention with its weights.

    `query` [batch, query_heads, q, head_dim] with query_heads = kv_heads * group; `key`, `value` [batch, kv_heads, n,
    head_dim]; `visible` bool, broadcast to [batch, kv_heads, q, n], says what each query sees, all by default.

    Returns the output [batch, query_heads, q, value_dim] and float32 weights [batch, kv_heads, group * q, n].
    """
    weights = attention_weights(query, key, scoring, visible)
    output = weights.to(value.dtype) @ value
    return output.view(*query.shape[:3], value.shape[3]), weights


def attention_weights(query: Tensor, key: Tensor, scoring: Scoring, visible: Tensor | None = None) -> Tensor:
    """float32 weights [batch, kv_heads, group * q, n]; see `observed_attention`."""
    batch, heads, q, dim = query.shape
    kv_heads, n = key.shape[1:3]
    logits = (query * scoring.scaling).reshape(batch, kv_heads, heads // kv_heads * q, dim) @ key.transpose(2, 3)
    if scoring.softcap is not None:
        logits = (logits / scoring.softcap).tanh() * scoring.softcap
    if visible is not None:
        grouped = logits.view(batch, kv_heads, heads // kv_heads, q, n)
        logits = grouped.masked_fill(~visible.unsqueeze(-3), float("-inf")).view(logits.shape)
    if scoring.sink is None:
        return logits.softmax(-1, dtype=torch.float32)
    sinks = scoring.sinks(kv_heads, q)[..., None].expand(batch, -1, -1, -1)
    return torch.cat([logits.float(), sinks], -1).softmax(-1)[..., :n]


def window_scores(query: Tensor, key: Tensor, scoring: Scoring, window: int, delay: int = 0) -> tuple[Tensor, Tensor]:
    """What the last `window` queries of a prompt saw of each token, as far as they come at least `delay` tokens later.

    Returns the weights summed over the window and averaged over the query heads of a group, float32 [batch,
    kv_heads, T], and over how many of the window's queries, float32 [1, 1, T].
    """
    length = key.shape[2]
    window = min(window, length)
    sums = key.new_zeros((*key.shape[:2], length), dtype=torch.float32)
    for first in range(length - window, length, QUERIES_AT_ONCE):
        last = min(first + QUERIES_AT_ONCE, length)
        visible = causal_mask(last - first, last, key.device)
        weights = attention_weights(query[:, :, first:last], key[:, :, :last], scoring, visible)
        if delay:
            weights = weights.unflatten(2, (-1, last - first)).sum(2) * visible.tril(first - delay)
        sums[..., :last] += weights.sum(2) * (key.shape[1] / query.shape[1])
    position = torch.arange(length, device=key.device)
    counts = (length - delay - position).clamp(0, window).float()
    return sums, counts[None, None]
