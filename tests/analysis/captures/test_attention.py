"""Attention weights of chosen queries against a softmax written out."""

import torch

from analysis.captures.attention import attention_weights, weighted_values


def test_weights_equal_a_softmax_over_the_past():
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(6, 3, 8, generator=generator).half()
    k = torch.randn(2, 20, 8, generator=generator).half()
    v = torch.randn(2, 20, 5, generator=generator).half()
    positions = [12, 0, 7]  # in any order
    weights = attention_weights(q, k, 0.3, positions)
    assert weights.shape == (6, 3, 20) and weights.dtype == torch.float32
    for head in range(6):
        for row, t in enumerate(positions):
            scores = k[head // 3, : t + 1].double() @ q[head, row].double() * 0.3
            torch.testing.assert_close(weights[head, row, : t + 1].double(), scores.softmax(0), atol=1e-6, rtol=1e-5)
            assert not weights[head, row, t + 1 :].any()
    values = weighted_values(weights[:, 0], v)
    assert values.shape == (6, 20, 5)
    torch.testing.assert_close(values[4], weights[4, 0, :, None] * v[1].float())
