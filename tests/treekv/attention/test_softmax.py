"""Attention and its weights against the definition, query by query."""

from __future__ import annotations

import pytest
import torch

from treekv.attention import softmax
from treekv.attention.softmax import Scoring

SCORINGS = {
    "plain": Scoring(0.6),
    "softcap": Scoring(2.0, softcap=1.5),
    "sink": Scoring(0.6, sink=torch.tensor([[0.5, -1.0, 2.0, 0.0, 3.0, 1.0]])),
    "softcap, and a sink of each row": Scoring(2.0, 1.5, torch.tensor([[0.5, -1, 2, 0, 3, 1], [1, 2, 0, -3, 0.5, 0]])),
}
scorings = pytest.mark.parametrize("scoring", SCORINGS.values(), ids=SCORINGS)


def states(q: int, length: int, group: int = 2, heads: int = 2, dim: int = 4, dtype=torch.float32):
    generator = torch.Generator().manual_seed(q + length)
    query = torch.randn(2, group * heads, q, dim, generator=generator).to(dtype)
    return query, *(torch.randn(2, heads, length, dim, generator=generator).to(dtype) for _ in range(2))


def definition(query, key, visible, scoring):
    """float32 [batch, query_heads, q, n]."""
    group = query.shape[1] // key.shape[1]
    logits = query.float() @ key.float().repeat_interleave(group, 1).transpose(2, 3) * scoring.scaling
    if scoring.softcap is not None:
        logits = scoring.softcap * torch.tanh(logits / scoring.softcap)
    powers = logits.exp() * visible
    total = powers.sum(-1, keepdim=True)
    if scoring.sink is not None:
        total = total + scoring.sink.exp()[:, :, None, None]
    return powers / total


def for_heads(scoring, heads):
    return scoring if scoring.sink is None else scoring._replace(sink=scoring.sink[:, :heads])


@scorings
@pytest.mark.parametrize("group", [1, 3])
@pytest.mark.parametrize("q, length", [(1, 1), (1, 9), (9, 9), (4, 9), (7, 8)])
def test_the_last_queries_attend_causally(q, length, group, scoring, monkeypatch):
    monkeypatch.setattr(softmax, "QUERIES_AT_ONCE", 3)
    query, key, value = states(q, length, group)
    visible = torch.ones(q, length, dtype=torch.bool).tril(length - q)
    scoring = for_heads(scoring, 2 * group)
    expected = definition(query, key, visible, scoring) @ value.repeat_interleave(group, 1)
    assert torch.allclose(softmax.causal_attention(query, key, value, scoring), expected, atol=1e-6)
    if not scoring.is_plain:
        for mask in (None, visible[None, None]):
            found = softmax.explicit_attention(query, key, value, scoring, mask)
            assert torch.allclose(found, expected, atol=1e-6)


def test_padding_that_sees_nothing_has_a_finite_output(monkeypatch):
    monkeypatch.setattr(softmax, "QUERIES_AT_ONCE", 3)
    query, key, value = states(7, 7)
    scoring, mask = SCORINGS["softcap"], torch.ones(2, 1, 7, 7, dtype=torch.bool).tril()
    mask[1, :, :, :2] = False
    found = softmax.explicit_attention(query, key, value, scoring, mask)
    expected = definition(query, key, mask, scoring) @ value.repeat_interleave(2, 1)
    assert bool(found.isfinite().all())
    assert torch.allclose(found[0], expected[0], atol=1e-6)
    assert torch.allclose(found[1, :, 2:], expected[1, :, 2:], atol=1e-6)


@scorings
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_observed_attention_returns_float32_weights_of_the_group(dtype, scoring):
    query, key, value = states(3, 5, dtype=dtype)
    visible = torch.ones(3, 5, dtype=torch.bool).tril(2)[None, None].expand(2, 2, -1, -1)
    scoring = for_heads(scoring, 4)
    output, weights = softmax.observed_attention(query, key, value, scoring, visible)
    expected = definition(query, key, visible.repeat_interleave(2, 1), scoring)
    assert weights.dtype == torch.float32 and output.dtype == dtype
    tolerance = 1e-6 if dtype == torch.float32 else 2e-2
    assert torch.allclose(weights.view(2, 4, 3, 5), expected, atol=tolerance)
    assert torch.allclose(output.float(), expected @ value.float().repeat_interleave(2, 1), atol=2 * tolerance)


@scorings
@pytest.mark.parametrize("delay", [0, 1, 3])
@pytest.mark.parametrize("window", [1, 4, 9, 20])
def test_window_scores_are_sums_of_the_last_rows_of_attention(window, delay, scoring, monkeypatch):
    monkeypatch.setattr(softmax, "QUERIES_AT_ONCE", 2)
    query, key, _ = states(9, 9)
    scoring = for_heads(scoring, 4)
    weights = definition(query, key, torch.ones(9, 9, dtype=torch.bool).tril(), scoring)
    sums, counts = softmax.window_scores(query, key, scoring, window, delay)
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
