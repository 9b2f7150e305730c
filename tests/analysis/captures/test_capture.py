"""A capture gives what eager attention gives, and says no clearly."""

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import analysis
from tests import tiny
from treekv import TreeKVError


def eager_contributions(model, token_ids, run):
    """Per layer [query_heads, query, position, channel], from transformers' own attention weights."""
    out = model(token_ids[None], output_attentions=True)
    result = []
    for index, weights in enumerate(out.attentions):
        values = run.v[index].repeat_interleave(run.query_heads // run.kv_heads, dim=0)
        result.append(weights[0][..., None] * values[:, None])
    return out.attentions, result


def test_contributions_equal_eager_attention(run, sharp_llama, token_ids):
    attentions, expected = eager_contributions(sharp_llama("eager"), token_ids, run)
    assert attentions[1][0, :, 20:].amax(-1).mean() > 0.1, "attention is too uniform to test anything"
    assert (run.query_heads, run.kv_heads, run.layers) == (4, 2, [0, 1])
    for layer in run.layers:
        for t in [0, 1, 17, *run.query_positions]:
            ours = run.contributions(layer, t)
            assert ours.shape == (4, t + 1, 8)
            torch.testing.assert_close(ours, expected[layer][:, t, : t + 1], atol=1e-4, rtol=0)


def test_captured_values_are_the_models_own(run, sharp_llama, token_ids):
    """The oracle above borrows the values: here they come from the projection itself."""
    model = sharp_llama("eager")
    inputs = []
    for block in model.model.layers:
        block.self_attn.v_proj.register_forward_hook(lambda *call: inputs.append(call[2]))
    model(token_ids[None])
    for layer, projected in enumerate(inputs):
        heads = projected[0].unflatten(-1, (2, 8)).transpose(0, 1)
        torch.testing.assert_close(run.v[layer], heads, atol=1e-4, rtol=1e-4)


def test_contributions_add_up_to_the_attention_output(run, sharp_llama, token_ids):
    model = sharp_llama("eager")
    inputs = []
    for block in model.model.layers:
        block.self_attn.o_proj.register_forward_hook(lambda *call: inputs.append(call[1][0]))
    model(token_ids[None])
    for layer, merged in enumerate(inputs):
        for t in run.query_positions:
            ours = run.contributions(layer, t).sum(1).flatten()
            torch.testing.assert_close(ours, merged[0, t], atol=1e-4, rtol=1e-4)


def test_contributions_with_labels(run, sharp_llama):
    for model, channels in ((None, 8), (sharp_llama("treekv"), 32)):
        found = analysis.contributions(run, 1, 40, model)
        assert found.dims == ("head", "position", "channel") and found.shape == (4, 41, channels)
        np.testing.assert_array_equal(found.values, run.contributions(1, 40, model))
        assert found["token"].values.tolist() == run.token_text[:41]
        assert found.attrs == {"layer": 1, "query": 40, "model": run.model, "projected": int(model is not None)}
    with pytest.raises(TreeKVError, match="layer 2 was not captured"):
        analysis.contributions(run, 2, 40)


def test_projected_contributions_add_up_to_the_attention_blocks_output(run, sharp_llama, token_ids):
    model = sharp_llama("treekv")
    outputs = []
    for block in model.model.layers:
        block.self_attn.o_proj.register_forward_hook(lambda *call: outputs.append(call[2][0]))
    model(token_ids[None])
    for layer, output in enumerate(outputs):
        for t in run.query_positions:
            ours = run.contributions(layer, t, model)
            assert ours.shape == (4, t + 1, 32)
            torch.testing.assert_close(ours.sum((0, 1)), output[t], atol=1e-3, rtol=1e-3)


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
    run = analysis.capture(model, None, ids, queries=2)
    ours = run.contributions(1, 39, model).sum((0, 1))
    projection = next(getattr(attention, n) for n in ("c_proj", "dense", "out_proj") if hasattr(attention, n))
    torch.testing.assert_close(ours + projection.bias, outputs[0][39], atol=1e-5, rtol=1e-4)


def test_no_output_projection_is_said(run):
    with pytest.raises(TreeKVError, match=r"layer 0 .*no known output projection"):
        run.contributions(0, 100, torch.nn.Linear(2, 2))


def test_weights_of_several_queries(run):
    weights = run.weights(1, [3, 250, 40])
    assert weights.shape == (4, 3, 301)
    torch.testing.assert_close(weights.sum(-1), torch.ones(4, 3))
    assert not weights[:, 0, 4:].any()
    torch.testing.assert_close(weights[:, 2], run.weights(1, [40])[:, 0])


def test_the_last_queries_of_a_prefix_are_observed(token_ids):
    model, seen = tiny.llama(), []
    short = analysis.capture(
        model, None, token_ids.tolist(), max_tokens=100, queries=7, progress=lambda *a: seen.append(a)
    )
    assert short.tokens == 100
    assert short.token_ids.tolist() == token_ids[:100].tolist()
    assert short.query_positions == list(range(93, 100))
    assert seen == [(1, 2), (2, 2)]


def test_chosen_layers_only(llama, run, token_ids, sharp_llama):
    seen = []
    model = sharp_llama("treekv")
    one = analysis.capture(model, None, token_ids, queries=5, layers=[1, 1], progress=lambda *call: seen.append(call))
    assert (one.layers, len(one.q), seen) == ([1], 1, [(1, 1)])
    torch.testing.assert_close(one.contributions(1, 299), run.contributions(1, 299))
    for layers, words in (([2], "layer 2 cannot"), ([-1], "layer -1 cannot"), ([], "an empty list")):
        with pytest.raises(TreeKVError, match=rf"{words}.*\[0, 1\]"):
            analysis.capture(llama, None, token_ids, layers=layers)


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
    run = analysis.capture(model, None, token_ids, max_tokens=60)
    assert run.layers == [1]
    attention = model.model.layers[1]
    values = attention.self_attn.v_proj(attention.input_layernorm(expected[1]))[0].unflatten(-1, (2, 8)).transpose(0, 1)
    torch.testing.assert_close(run.v[0], values, atol=1e-4, rtol=1e-4)
    with pytest.raises(TreeKVError, match=r"layer 0 cannot.*\[1\]"):
        analysis.capture(model, None, token_ids, max_tokens=60, layers=[0])


def test_capture_leaves_the_model_as_it_was(token_ids):
    model = tiny.llama().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    analysis.capture(model, None, token_ids[:40])
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_text_and_tokens_of_a_real_model(smollm2):
    model, tokenizer = smollm2
    text = "The tree keeps what is near in full and what is far in outline. " * 8
    run = analysis.capture(model, tokenizer, text, max_tokens=96, queries=4)
    assert len(run.layers) == 30
    assert (run.query_heads, run.kv_heads) == (9, 3)
    assert text.startswith("".join(run.token_text))
    model.set_attn_implementation("eager")
    try:
        _, expected = eager_contributions(model, run.token_ids, run)
    finally:
        model.set_attn_implementation("treekv")
    for layer in (0, 14, 29):
        for t in run.query_positions:
            torch.testing.assert_close(run.contributions(layer, t), expected[layer][:, t, : t + 1], atol=1e-4, rtol=0)


def test_saved_and_opened_again(run, tmp_path):
    path = run.save(tmp_path / "capture.nc")
    again = analysis.open(path)
    for kind in ("q", "k", "v"):
        for before, after in zip(getattr(run, kind), getattr(again, kind), strict=True):
            assert after.dtype == torch.float16
            assert torch.equal(after, before.half())
    for name in ("scaling", "layers", "token_text", "query_positions", "model", "attrs"):
        assert getattr(again, name) == getattr(run, name), name
    assert torch.equal(again.token_ids, run.token_ids)
    second = analysis.open(again.save(tmp_path / "second.nc"))
    assert all(torch.equal(a, b) for a, b in zip(again.q, second.q, strict=True))
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["capture.nc", "second.nc"]


def test_numbers_beyond_half_precision_are_kept(run, tmp_path):
    large = analysis.Capture(**{**vars(run), "k": [k * 1e6 for k in run.k]})
    again = analysis.open(large.save(tmp_path / "capture.nc"))
    assert again.k[0].dtype == torch.float32
    assert torch.equal(again.k[0], large.k[0])
    assert again.v[0].dtype == torch.float16


def test_bfloat16_model(token_ids, tmp_path):
    run = analysis.capture(tiny.llama().bfloat16(), None, token_ids, queries=2)
    assert run.q[0].dtype == torch.bfloat16
    assert run.contributions(0, 300).dtype == torch.float32
    again = analysis.open(run.save(tmp_path / "capture.nc"))
    np.testing.assert_allclose(again.v[1].float(), run.v[1].float(), atol=1e-4)


@pytest.mark.parametrize(
    ("text", "changes", "words"),
    [
        ("", {}, "empty"),
        (" \n\t", {}, "empty"),
        ("some text", {}, "tokenizer"),
        ([], {}, "0 tokens.*32"),
        (list(range(31)), {}, "31 tokens.*32"),
        (list(range(50)), {"queries": 40}, "50 tokens.*56"),
        (list(range(50)), {"queries": 0}, "queries is 0"),
        (list(range(50)), {"max_tokens": 20}, "max_tokens is 20.*32"),
        ([*range(50), 97], {}, "97.*vocabulary"),
        ([*range(50), -1], {}, "-1.*vocabulary"),
        ([1] * 600, {}, "600 tokens.*512"),
    ],
)
def test_bad_text_is_refused(llama, text, changes, words):
    with pytest.raises(TreeKVError, match=words):
        analysis.capture(llama, None, text, **changes)


def test_another_attention_is_refused(token_ids):
    with pytest.raises(TreeKVError, match=r"'eager'.*'treekv'"):
        analysis.capture(tiny.llama("eager"), None, token_ids)


def test_what_is_not_in_the_capture_is_refused(run):
    with pytest.raises(TreeKVError, match=r"layer 2 .*\[0, 1\]"):
        run.weights(2, [10])
    for position in (-1, 301):
        with pytest.raises(TreeKVError, match=f"{position} .*0 to 300"):
            run.contributions(0, position)
    with pytest.raises(TreeKVError, match="0 to 300"):
        run.weights(0, [])
