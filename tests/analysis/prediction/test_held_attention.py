"""Masked attention by blocks of queries, against a loop over single queries."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from analysis.prediction import held_attention as module
from analysis.prediction.held_attention import held_attention


def by_query(q, k, v, scaling, evicted_at):
    """Each query of each head attends to the tokens that its KV head held, one at a time."""
    heads, tokens, _ = q.shape
    output = torch.empty(heads, tokens, v.shape[2])
    for head in range(heads):
        own = head * len(k) // heads
        for t in range(tokens):
            held = [j for j in range(t + 1) if evicted_at[own][j] < 0 or t <= evicted_at[own][j]]
            weights = (k[own, held] @ q[head, t] * scaling).softmax(0)
            output[head, t] = weights @ v[own, held]
    return output


@pytest.mark.parametrize("heads, kv_heads", [(4, 2), (3, 3), (6, 1)])
@pytest.mark.parametrize("tokens, block", [(37, 16), (64, 16), (33, 128)])
def test_each_query_sees_what_its_head_held(monkeypatch, heads, kv_heads, tokens, block):
    monkeypatch.setattr(module, "QUERIES_AT_ONCE", block)
    torch.manual_seed(0)
    q, k, v = (torch.randn(n, tokens, dim) for n, dim in ((heads, 8), (kv_heads, 8), (kv_heads, 5)))
    rng = np.random.default_rng(0)
    position = np.arange(tokens)
    evicted_at = rng.integers(position, 2 * tokens, (kv_heads, tokens))  # also at once, when it was processed
    evicted_at = np.where(evicted_at >= tokens, -1, evicted_at)
    expected = by_query(q, k, v, 0.7, evicted_at)
    torch.testing.assert_close(held_attention(q, k, v, 0.7, evicted_at), expected, atol=1e-5, rtol=1e-5)
    stays = np.full_like(evicted_at, -1)
    for nothing_evicted in (None, stays):
        found = held_attention(q, k, v, 0.7, nothing_evicted)
        torch.testing.assert_close(found, by_query(q, k, v, 0.7, stays), atol=1e-5, rtol=1e-5)


def test_keys_that_no_query_of_a_block_sees_are_not_read():
    """Memory is bounded by what is held, not by the length of the text."""
    until = np.arange(0, 1000)[None] + 9  # ten tokens at a time
    position, visible = module._visible(until, 500, 516)
    assert position.tolist() == [list(range(491, 516))] and visible.shape == (1, 16, 25)
    assert (visible.sum(-1) == 10).all()
