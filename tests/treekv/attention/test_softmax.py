"""Attention and its weights against the definition, query by query."""

from __future__ import annotations

import pytest
import torch

from treekv.attention import softmax

SCALING = 0.6


def states(q: int, length: int, group: int = 2, heads: int = 2, dim: int = 4, dtype=torch.float32):
    generator = torch.Generator().manual_seed(q + length)
    query = torch.randn(2, group * heads, q, dim, generator=generator).to(dtype)
    return query, *(torch.randn(2, heads, length, dim, generator=generator).to(dtype) for _ in range(2))


def definition(query, key, visible):
    """float32 [batch, query_heads, q, n]."""
    group = query.shape[1] // key.shape[1]
    logits = query.float() @ key.float().repeat_interleave(group, 1).transpose(2, 3) * SCALING
    return logits.masked_fill(~visible, float("-inf")).softmax(-1)


@pytest.mark.parametrize("group", [1, 3])
@pytest.mark.parametrize("q, length", [(1, 1), (1, 9), (9, 9), (4, 9), (7, 8)])
def test_the_last_queries_attend_causally(q, length, group, monkeypatch):
    monkeypatch.setattr(softmax, "QUERIES_AT_ONCE", 3)
    query, key, value = states(q, length, group)
    visible = torch.ones(q, length, dtype=torch.bool).tril(length - q)
    expected = definition(query, key, visible) @ value.repeat_interleave(group, 1)
    assert torch.allclose(softmax.causal_attention(query, key, value, SCALING), expected, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_observed_attention_returns_float32_weights_of_the_group(dtype):
    query, key, value = states(3, 5, dtype=dtype)
    visible = torch.ones(3, 5, dtype=torch.bool).tril(2)[None, None].expand(2, 2, -1, -1)
    output, weights = softmax.observed_attention(query, key, value, SCALING, visible)
    expected = definition(query, key, visible.repeat_interleave(2, 1))
    assert weights.dtype == torch.float32 and output.dtype == dtype
    tolerance = 1e-6 if dtype == torch.float32 else 2e-2
    assert torch.allclose(weights.view(2, 4, 3, 5), expected, atol=tolerance)
    assert torch.allclose(output.float(), expected @ value.float().repeat_interleave(2, 1), atol=2 * tolerance)


@pytest.mark.parametrize("delay", [0, 1, 3])
@pytest.mark.parametrize("window", [1, 4, 9, 20])
def test_window_scores_are_sums_of_the_last_rows_of_attention(window, delay, monkeypatch):
    monkeypatch.setattr(softmax, "QUERIES_AT_ONCE", 2)
    query, key, _ = states(9, 9)
    weights = definition(query, key, torch.ones(9, 9, dtype=torch.bool).tril())
    sums, counts = softmax.window_scores(query, key, SCALING, window, delay)
    weights = weights.tril(-delay)  # of later queries only
    last = weights.unflatten(1, (2, 2)).mean(2)[:, :, -window:]
    assert torch.allclose(sums, last.sum(2), atol=1e-6)
    assert counts[0, 0].tolist() == (weights[0, 0, -window:] > 0).sum(0).tolist()


def test_new_tokens_see_earlier_ones_and_no_free_slot():
    assert softmax.visible(None, 1, True) is None
    distance = torch.tensor([[[3, 0, -1, 1, 2]]])
    assert softmax.visible(distance, 1, False).tolist() == [[[[True, True, False, True, True]]]]
    seen = softmax.visible(distance, 2, False)
    assert seen.tolist() == [[[[True, False, False, True, True], [True, True, False, True, True]]]]
