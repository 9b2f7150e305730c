"""The forward pass changes nothing in the model, and captures full-attention layers only."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import analysis
from tests import tiny
from treekv import TreeKVConfig, TreeKVError


def test_sliding_layers_of_a_hybrid_model_run_but_are_not_captured(token_ids):
    sizes = dict(vocab_size=97, hidden_size=32, num_attention_heads=4, num_key_value_heads=2, head_dim=8)
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    config = AutoConfig.for_model(
        "gemma3_text", **sizes, intermediate_size=48, num_hidden_layers=3, layer_types=kinds, sliding_window=16
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    expected = model(token_ids[None, :60], output_hidden_states=True).hidden_states
    model.set_attn_implementation("treekv")
    captured = analysis.capture(model, None, token_ids, max_tokens=60)
    assert captured.layers == [1]
    attention = model.model.layers[1]
    values = attention.self_attn.v_proj(attention.input_layernorm(expected[1]))[0].unflatten(-1, (2, 8)).transpose(0, 1)
    torch.testing.assert_close(captured.v[0], values, atol=1e-4, rtol=1e-4)
    with pytest.raises(TreeKVError, match=r"layer 0 cannot.*\[1\]"):
        analysis.capture(model, None, token_ids, max_tokens=60, layers=[0])


@pytest.mark.parametrize("sensitivity", [False, True])
def test_a_model_of_sliding_layers_is_captured_within_its_window(token_ids, sensitivity):
    sizes = dict(vocab_size=97, hidden_size=32, num_attention_heads=4, num_key_value_heads=2, head_dim=8)
    config = AutoConfig.for_model(
        "mistral", **sizes, intermediate_size=48, num_hidden_layers=2, sliding_window=40, attn_implementation="treekv"
    )
    torch.manual_seed(0)
    with torch.inference_mode(False):
        model = AutoModelForCausalLM.from_config(config).eval()
    given = []
    hooks = [
        layer.self_attn.o_proj.register_forward_pre_hook(lambda module, args: given.append(args[0][0].detach()))
        for layer in model.model.layers
    ]
    model(token_ids[None, :40])
    for hook in hooks:
        hook.remove()
    captured = analysis.capture(model, None, token_ids, max_tokens=40, sensitivity=sensitivity)
    assert captured.layers == [0, 1]
    assert [layer.window for layer in captured.model_layers] == [40, 40]
    for layer in captured.layers:
        ours = captured.contributions(layer, 39).sum(1).flatten()
        torch.testing.assert_close(ours, given[layer][39], rtol=1e-4, atol=1e-5)
    with pytest.raises(TreeKVError, match="41 tokens exceed the sliding window of 40"):
        analysis.capture(model, None, token_ids, max_tokens=41, sensitivity=sensitivity)
    with pytest.raises(TreeKVError, match="there is nothing to gain"):
        analysis.replay(model, captured, {"tree": TreeKVConfig(cache_size=20, recent_size=4)})


def test_capture_leaves_the_model_as_it_was(token_ids):
    model = tiny.llama().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    analysis.capture(model, None, token_ids[:40])
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_another_attention_is_refused(token_ids):
    with pytest.raises(TreeKVError, match=r"'eager'.*'treekv'"):
        analysis.capture(tiny.llama("eager"), None, token_ids)


@pytest.mark.parametrize("sensitivity", [False, True])
def test_a_model_that_overflows_is_refused(token_ids, sensitivity):
    with torch.inference_mode(False):
        model = tiny.llama().half()
    for block in model.model.layers:
        block.self_attn.k_proj.weight.data.fill_(6e4)
    with pytest.raises(
        TreeKVError, match=r"layer 0 is not made of finite numbers \(the model computes in torch.float16"
    ):
        analysis.capture(model, None, token_ids, max_tokens=60, sensitivity=sensitivity)
    with pytest.raises(TreeKVError, match="layer 0 is not made of finite numbers"):
        analysis.capture_spectrum(model, None, token_ids, max_tokens=60)
