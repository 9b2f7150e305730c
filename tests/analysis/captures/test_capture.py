"""Contributions of a capture equal eager attention."""

import numpy as np
import torch

import analysis
from tests import tiny


def eager_contributions(model, token_ids, captured):
    """Per layer [query_heads, query, position, channel], from transformers' own attention weights."""
    out = model(token_ids[None], output_attentions=True)
    result = []
    for index, weights in enumerate(out.attentions):
        values = captured.v[index].repeat_interleave(captured.query_heads // captured.kv_heads, dim=0)
        result.append(weights[0][..., None] * values[:, None])
    return out.attentions, result


def test_contributions_equal_eager_attention(captured, sharp_llama, token_ids):
    attentions, expected = eager_contributions(sharp_llama("eager"), token_ids, captured)
    assert attentions[1][0, :, 20:].amax(-1).mean() > 0.1, "attention is too uniform to test anything"
    assert (captured.query_heads, captured.kv_heads, captured.layers) == (4, 2, [0, 1])
    for layer in captured.layers:
        for t in [0, 1, 17, *captured.query_positions]:
            ours = captured.contributions(layer, t)
            assert ours.shape == (4, t + 1, 8)
            torch.testing.assert_close(ours, expected[layer][:, t, : t + 1], atol=1e-4, rtol=0)


def test_captured_values_are_the_models_own(captured, sharp_llama, token_ids):
    """The oracle above borrows the values: here they come from the projection itself."""
    model = sharp_llama("eager")
    inputs = []
    for block in model.model.layers:
        block.self_attn.v_proj.register_forward_hook(lambda *call: inputs.append(call[2]))
    model(token_ids[None])
    for layer, projected in enumerate(inputs):
        heads = projected[0].unflatten(-1, (2, 8)).transpose(0, 1)
        torch.testing.assert_close(captured.v[layer], heads, atol=1e-4, rtol=1e-4)


def test_contributions_add_up_to_the_attention_output(captured, sharp_llama, token_ids):
    model = sharp_llama("eager")
    inputs = []
    for block in model.model.layers:
        block.self_attn.o_proj.register_forward_hook(lambda *call: inputs.append(call[1][0]))
    model(token_ids[None])
    for layer, merged in enumerate(inputs):
        for t in captured.query_positions:
            ours = captured.contributions(layer, t).sum(1).flatten()
            torch.testing.assert_close(ours, merged[0, t], atol=1e-4, rtol=1e-4)


def test_projected_contributions_add_up_to_the_attention_blocks_output(captured, sharp_llama, token_ids):
    model = sharp_llama("treekv")
    outputs = []
    for block in model.model.layers:
        block.self_attn.o_proj.register_forward_hook(lambda *call: outputs.append(call[2][0]))
    model(token_ids[None])
    for layer, output in enumerate(outputs):
        for t in captured.query_positions:
            ours = captured.contributions(layer, t, model)
            assert ours.shape == (4, t + 1, 32)
            torch.testing.assert_close(ours.sum((0, 1)), output[t], atol=1e-3, rtol=1e-3)


def test_text_and_tokens_of_a_real_model(smollm2):
    model, tokenizer = smollm2
    text = "The tree keeps what is near in full and what is far in outline. " * 8
    captured = analysis.capture(model, tokenizer, text, max_tokens=96, queries=4)
    assert len(captured.layers) == 30
    assert (captured.query_heads, captured.kv_heads) == (9, 3)
    assert text.startswith("".join(captured.token_text))
    model.set_attn_implementation("eager")
    try:
        _, expected = eager_contributions(model, captured.token_ids, captured)
    finally:
        model.set_attn_implementation("treekv")
    for layer in (0, 14, 29):
        for t in captured.query_positions:
            torch.testing.assert_close(
                captured.contributions(layer, t), expected[layer][:, t, : t + 1], atol=1e-4, rtol=0
            )


def test_bfloat16_model(token_ids, tmp_path):
    captured = analysis.capture(tiny.llama().bfloat16(), None, token_ids, queries=2)
    assert captured.q[0].dtype == torch.bfloat16
    assert captured.contributions(0, 300).dtype == torch.float32
    again = analysis.open(captured.save(tmp_path / "capture.nc"))
    np.testing.assert_allclose(again.v[1].float(), captured.v[1].float(), atol=1e-4)
