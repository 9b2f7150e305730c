"""Attention weights of chosen queries against a softmax written out."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import analysis
from analysis.captures.attention import attention_weights, weighted_values
from tests import tiny
from treekv import TreeKVError


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


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "phi", "opt"])
def test_output_projections_of_other_families(family):
    sizes = dict(vocab_size=97, num_attention_heads=4, num_hidden_layers=2, hidden_size=32)
    config = AutoConfig.for_model(family, **sizes, **({"ffn_dim": 64} if family == "opt" else {}))
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    model.set_attn_implementation("treekv")
    attention = [m for m in model.modules() if getattr(m, "layer_idx", None) == 1 and hasattr(m, "scaling")][-1]
    outputs = []
    attention.register_forward_hook(lambda *call: outputs.append(call[2][0][0]))
    ids = tiny.tokens(40)[0]
    captured = analysis.capture(model, None, ids, queries=2)
    ours = captured.contributions(1, 39, model).sum((0, 1))
    projection = next(getattr(attention, n) for n in ("c_proj", "dense", "out_proj") if hasattr(attention, n))
    torch.testing.assert_close(ours + projection.bias, outputs[0][39], atol=1e-5, rtol=1e-4)


def test_a_model_without_a_known_output_projection_is_refused(captured):
    with pytest.raises(TreeKVError, match=r"layer 0 .*no known output projection"):
        captured.contributions(0, 100, torch.nn.Linear(2, 2))
