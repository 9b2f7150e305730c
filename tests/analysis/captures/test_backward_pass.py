"""The gradients of a capture against autograd through the whole model and against finite differences."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import analysis
from analysis.captures import backward_pass
from tests import tiny
from tests.reference import sensitivity as reference
from treekv import TreeKVError

LENGTH = 43  # odd
IDS = tiny.tokens(LENGTH, seed=5)[0].tolist()


@pytest.fixture(autouse=True)
def ordinary_tensors():
    """Other tests run in inference_mode, in which no model can be made that has gradients."""
    with torch.inference_mode(False), torch.no_grad():
        yield


def made(attention="treekv", **changes):
    return tiny.llama(attention, **changes)


def gradients(model, ids=IDS, **options):
    captured = analysis.capture(model, None, ids, queries=4, sensitivity=True, **options)
    return [captured.gradient(layer) for layer in captured.layers]


def largest_error(found, expected):
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, expected, strict=True))


@pytest.fixture(params=[False, True], ids=["kept", "recomputed"])
def recompute(request, monkeypatch):
    """Both ways through the backward pass."""
    monkeypatch.setattr(backward_pass, "KEPT_AT_MOST", 0 if request.param else 2**30)
    return request.param


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_equals_autograd_through_the_whole_model(recompute, kv_heads):
    found = gradients(made(kv_heads=kv_heads))
    expected = reference.gradients(made("eager", kv_heads=kv_heads), IDS)
    assert [tuple(g.shape) for g in found] == [(4, LENGTH, 8)] * 2
    assert largest_error(found, expected) < 1e-3
    assert not any(g[:, -1].any() for g in found), "the last token predicts nothing"


@pytest.mark.parametrize(("dtype", "most"), [(torch.bfloat16, 0.1), (torch.float16, 0.02)])
def test_half_precision(recompute, dtype, most):
    found = gradients(made().to(dtype))
    expected = reference.gradients(made("eager").to(dtype).float(), IDS)
    assert largest_error(found, expected) < most


def test_equals_finite_differences(recompute):
    found = gradients(made())
    model = made("eager").double()
    for place in [(0, 0, 0, 3), (0, 3, 20, 7), (1, 1, 5, 0), (1, 2, LENGTH - 2, 4)]:
        layer, head, t, channel = place
        expected = reference.finite_difference(model, IDS, *place, step=1e-4)
        assert abs(expected) > 1e-4
        error = abs(found[layer][head, t, channel].item() - expected)
        assert error < 1e-3 * found[layer].abs().max(), place


def test_logits_in_pieces_give_the_same(monkeypatch):
    model = made().double()  # in float32, rounding depends on the processor
    whole = gradients(model)
    monkeypatch.setattr(backward_pass, "LOGITS_AT_ONCE", 5 * tiny.VOCABULARY)
    assert largest_error(gradients(model), whole) < 1e-7


def test_queries_keys_values_and_loss_are_those_of_the_plain_capture(recompute):
    model = made()
    plain = analysis.capture(model, None, IDS, queries=4)
    captured = analysis.capture(model, None, IDS, queries=4, sensitivity=True)
    for name in ("q", "k", "v"):
        for ours, theirs in zip(getattr(captured, name), getattr(plain, name), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
            assert not ours.requires_grad and not ours.is_inference()
    assert captured.model_layers == plain.model_layers
    assert captured.attrs["loss"] == pytest.approx(reference.loss(made("eager"), IDS).item() / (LENGTH - 1), rel=1e-5)
    assert plain.g is None and not plain.has_sensitivity


def test_inside_inference_mode():
    model, expected = made(), reference.gradients(made("eager"), IDS)
    with torch.inference_mode():
        captured = analysis.capture(model, None, IDS, queries=4, sensitivity=True)
        assert largest_error([captured.gradient(0), captured.gradient(1)], expected) < 1e-3


def test_a_hybrid_model(hybrid, recompute):
    """Sliding layers pass the gradient on; layers with full attention are captured. Final logits are soft-capped."""
    found = gradients(hybrid)
    hybrid.set_attn_implementation("eager")
    try:
        expected = reference.gradients(hybrid, IDS)
    finally:
        hybrid.set_attn_implementation("treekv")
    assert largest_error(found, [expected[1], expected[3]]) < 1e-3
    assert analysis.capture(hybrid, None, IDS, queries=4, sensitivity=True).model_layers == (
        analysis.capture(hybrid, None, IDS, queries=4).model_layers
    )


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("gemma2", {"final_logit_softcapping": 2.0, "attn_logit_softcapping": None, "num_key_value_heads": 2}),
        ("cohere", {"logit_scale": 0.3}),
        ("granite", {"logits_scaling": 3.0}),
        ("gpt2", {"n_embd": 32, "n_head": 4, "n_layer": 2}),
        ("mixtral", {"num_local_experts": 4, "num_key_value_heads": 2}),
    ],
)
def test_the_loss_is_that_of_the_models_own_logits(kind, changes, recompute):
    """Soft caps, scales, other blocks and experts: moving an attention output along its gradient moves the loss."""
    sizes = dict(
        vocab_size=tiny.VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    )
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**sizes, "layer_types": ["full_attention"] * 2, "head_dim": 8, **changes})
    model = AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        parameter.data.mul_(4.0 if parameter.ndim > 1 else 1.0)
    model.set_attn_implementation("treekv")
    captured = analysis.capture(model, None, IDS, queries=4, sensitivity=True)
    assert captured.attrs["loss"] == pytest.approx(reference.loss(model, IDS).item() / (LENGTH - 1), rel=1e-4)
    found = captured.gradient(1)[:, 20].flatten()
    direction = found / found.norm()
    names = ("o_proj", "c_proj")
    attention = [m for m in model.modules() if getattr(m, "layer_idx", None) == 1 and any(hasattr(m, n) for n in names)]
    projection = next(getattr(attention[0], name) for name in names if hasattr(attention[0], name))

    def moved(by):
        def move(module, arguments):
            output = arguments[0].clone()
            output[0, 20] += by * direction
            return (output,)

        hook = projection.register_forward_pre_hook(move)
        try:
            return reference.loss(model, IDS).item()
        finally:
            hook.remove()

    assert (moved(1e-2) - moved(-1e-2)) / 2e-2 == pytest.approx(found.norm().item(), rel=0.05, abs=2e-3)


def test_the_model_is_left_as_it_was(recompute):
    model = made().train()
    model.model.layers[1].mlp.eval()  # modes can differ inside a model
    model.lm_head.weight.requires_grad_(False)
    modes = [module.training for module in model.modules()]
    frozen = [parameter.requires_grad for parameter in model.parameters()]
    attributes = [set(vars(module)) for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    gradients(model)
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == frozen
    assert [set(vars(module)) for module in model.modules()] == attributes
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_frozen_model_and_a_part_of_the_layers(recompute):
    expected = reference.gradients(made("eager"), IDS)
    model = made().requires_grad_(False)
    assert largest_error(gradients(model), expected) < 1e-3
    assert largest_error(gradients(made(), layers=[1]), expected[1:]) < 1e-3


def test_progress_counts_layers_twice_and_can_end_the_work(recompute):
    seen = []
    model = made()
    analysis.capture(model, None, IDS, queries=4, sensitivity=True, progress=lambda *call: seen.append(call))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]

    def stop(done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        analysis.capture(model, None, IDS, queries=4, sensitivity=True, progress=stop)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert len(gradients(model)) == 2


# ---------------------------------------------------------------------- what is refused


def test_inference_tensors_are_refused():
    with torch.inference_mode():
        model = tiny.llama()
    with pytest.raises(TreeKVError, match=r"LlamaForCausalLM was made in torch.inference_mode.*load it outside"):
        gradients(model)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_quantised_model_is_refused():
    model = torch.ao.quantization.quantize_dynamic(made(), {torch.nn.Linear}, dtype=torch.qint8)
    with pytest.raises(TreeKVError, match="cannot be differentiated"):
        gradients(model)


def test_a_model_without_a_head_is_refused():
    with pytest.raises(TreeKVError, match="LlamaModel has no language-model head"):
        gradients(made().model)


def test_gradients_that_overflow_are_refused():
    model = made()
    model.lm_head.weight.mul_(1e38)
    with pytest.raises(TreeKVError, match=r"layer 1 is not finite in torch.float32"):
        gradients(model)


def test_too_little_memory_is_said_before_the_text_is_run(monkeypatch):
    ids = tiny.tokens(400)[0].tolist()
    model = made()
    needs = backward_pass.measure(model, ids, [0, 1])
    monkeypatch.setattr(backward_pass, "free_bytes", lambda device: needs.total(300))
    lengths = []
    hook = model.model.register_forward_pre_hook(
        lambda module, a, kw: lengths.append(kw["input_ids"].shape[1]), with_kwargs=True
    )
    with pytest.raises(
        TreeKVError, match=r"gradients of 400 tokens need about .* are free on 'cpu'; 300 tokens would fit"
    ):
        gradients(model, ids)
    assert max(lengths) == backward_pass.PROBE
    hook.remove()
    assert len(gradients(model, ids, max_tokens=300)) == 2
    monkeypatch.setattr(backward_pass, "free_bytes", lambda device: 100)
    with pytest.raises(TreeKVError, match="capture without sensitivity, or free memory"):
        gradients(model, ids)


def test_one_token_is_refused():
    with pytest.raises(TreeKVError, match="the text has 1 token;"):
        gradients(made(), [5])


def test_recomputing_takes_less_memory(monkeypatch):
    model, ids = made(num_hidden_layers=8), IDS
    kept = backward_pass.measure(model, ids, range(8))
    monkeypatch.setattr(backward_pass, "KEPT_AT_MOST", 0)
    again = backward_pass.measure(model, ids, range(8))
    assert (kept.recompute, again.recompute) == (False, True)
    assert again.per_token < 0.7 * kept.per_token
