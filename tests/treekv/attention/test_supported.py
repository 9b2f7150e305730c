"""Every model family that is said to work, with tiny random weights.

In a model of one layer keys and values depend on nothing but the token and its position. So a query that attends to
the kept tokens at rank positions must give what the plain model gives for the kept tokens alone, whatever the
family does with rotary embedding, norms or scaling. That is the oracle here.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.auto import modeling_auto

import analysis
from tests import tiny
from tests.reference import positions
from treekv import TreeKVCache, TreeKVConfig, TreeKVError
from treekv.attention import interface as attention
from treekv.attention import seen_distance, supported

ROPE = {"rope_type": "default", "rope_theta": 10000.0}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}

FAMILIES = {
    "llama": ("llama", {}),
    "llama linear": ("llama", dict(rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0})),
    "llama llama3": ("llama", dict(rope_parameters=LLAMA3)),
    "llama yarn": ("llama", dict(rope_parameters=YARN)),
    "mistral": ("mistral", dict(sliding_window=None, head_dim=8)),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", dict(head_dim=16)),
    "phi3": ("phi3", dict(pad_token_id=0)),
    "phi3 partial": ("phi3", dict(pad_token_id=0, rope_parameters={**ROPE, "partial_rotary_factor": 0.5})),
    "gemma3": ("gemma3_text", dict(head_dim=16, layer_types=["full_attention"], query_pre_attn_scalar=16)),
    "olmo2": ("olmo2", {}),
    "gpt_neox": ("gpt_neox", dict(rope_parameters={**ROPE, "partial_rotary_factor": 0.25})),
    "gpt_neox full": ("gpt_neox", dict(rope_parameters={**ROPE, "partial_rotary_factor": 1.0})),
    "granite": ("granite", dict(attention_multiplier=0.3)),
}


def make(name: str, layers: int = 1, attention: str = "treekv", **changes):
    family, settings = FAMILIES[name]
    if family == "gemma3_text":
        settings = settings | dict(layer_types=(["sliding_attention"] * (layers - 1) + ["full_attention"]))
        settings = settings | dict(sliding_window=8)
    torch.manual_seed(0)
    sizes = dict(
        vocab_size=tiny.VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=1,
        max_position_embeddings=128,
        eos_token_id=None,
        bos_token_id=None,
    )
    if family == "gpt_neox":
        del sizes["num_key_value_heads"]
    config = AutoConfig.for_model(family, **(sizes | settings | changes))
    model = AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        parameter.data.mul_(4.0 if parameter.ndim > 1 else 1.0)
    model.set_attn_implementation(attention)
    return model


def policies_for(name: str) -> list[str]:
    """Where heads may keep different tokens there is no common sequence to give to the plain model."""
    return ["streaming", "tova"] if name.startswith("gpt_neox") else ["streaming", "tova", "tree"]


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_rank_positions_are_those_of_the_kept_tokens_alone(name):
    model, plain = make(name), make(name, attention="eager")
    ids = tiny.tokens(60)
    for policy in policies_for(name):
        config = TreeKVConfig(policy=policy, cache_size=12, prefill="stream", block_size=1)
        cache = TreeKVCache(config, model.config)
        before: list[int] = []
        for step in range(60):
            logits = model(ids[:, step : step + 1], past_key_values=cache).logits[0, -1]
            expected = plain(ids[:, [*before, step]]).logits[0, -1]
            assert torch.allclose(logits, expected, atol=2e-4), (policy, step)
            before = cache.kept_positions(0)[0, 0].tolist()
        assert len(before) == 12 and before != list(range(12))


@pytest.mark.parametrize("name", FAMILIES)
def test_compressed_positions_are_the_models_own(name, monkeypatch):
    """The plain model takes the positions of the rule as its own."""
    monkeypatch.setattr(seen_distance, "NEAR", 6)
    monkeypatch.setattr(positions, "NEAR", 6)
    model, plain = make(name), make(name, attention="eager")
    ids = tiny.tokens(60)
    config = TreeKVConfig(policy="streaming", cache_size=12, prefill="stream", block_size=12, positions="compressed")
    cache = TreeKVCache(config, model.config)
    model(ids[:, :56], past_key_values=cache)
    for step in range(56, 60):
        held = [*cache.kept_positions(0)[0, 0].tolist(), step]
        at = 64 + torch.tensor([positions.places(held, step, "compressed")])
        logits = model(ids[:, step : step + 1], past_key_values=cache).logits[0, -1]
        expected = plain(ids[:, held], position_ids=at).logits[0, -1]
        assert torch.allclose(logits, expected, atol=2e-4), step


@pytest.mark.parametrize("name", FAMILIES)
def test_a_compressed_prompt_is_the_kept_tokens_alone(name):
    model, plain = make(name), make(name, attention="eager")
    ids = tiny.tokens(50)
    for policy in policies_for(name):
        config = TreeKVConfig(policy=policy, cache_size=12, block_size=2, sink_size=2, recent_size=None)
        cache = TreeKVCache(config, model.config)
        whole = model(ids[:, :49], past_key_values=cache).logits
        assert torch.allclose(whole, plain(ids[:, :49]).logits, atol=2e-4), "a prompt is attended to in full"
        kept = cache.kept_positions(0)[0, 0].tolist()
        logits = model(ids[:, 49:], past_key_values=cache).logits[0, -1]
        assert torch.allclose(logits, plain(ids[:, [*kept, 49]]).logits[0, -1], atol=2e-4), policy


@pytest.mark.parametrize("name", FAMILIES)
def test_room_for_everything_generates_what_plain_transformers_generates(name):
    model, plain = make(name, layers=3), make(name, layers=3, attention="sdpa")
    ids = tiny.tokens(20, batch=2)
    expected = plain.generate(ids, max_new_tokens=20, do_sample=False, pad_token_id=0)
    for prefill in ("once", "stream"):
        cache = TreeKVCache(TreeKVConfig(cache_size=64, prefill=prefill), model.config)
        got = model.generate(ids, past_key_values=cache, max_new_tokens=20, do_sample=False, pad_token_id=0)
        assert torch.equal(got, expected), prefill


def test_sliding_layers_of_a_hybrid_model_stay_as_they_are():
    model = make("gemma3", layers=3)
    cache = TreeKVCache(TreeKVConfig(cache_size=16, sink_size=2, recent_size=4, block_size=2), model.config)
    ids = tiny.tokens(40)
    model.generate(ids, past_key_values=cache, max_new_tokens=10, do_sample=False, pad_token_id=0)
    assert cache.kept_positions(2).shape == (1, 1, 16)
    assert cache.layers[0].keys.shape[2] == 8 - 1  # transformers' own sliding layer keeps window - 1
    with pytest.raises(TreeKVError, match="layer 0 has a sliding window and is not compressed"):
        cache.kept_positions(0)
    row = 2 * 16 * 4  # key and value of 16 channels in float32
    assert cache.nbytes == (16 + 1 + 2 * 7) * row


@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_models_without_rotary_positions_work_at_original_positions(family):
    torch.manual_seed(0)
    sizes = dict(vocab_size=97, max_position_embeddings=128, eos_token_id=None, bos_token_id=None)
    if family == "gpt2":
        sizes |= dict(n_embd=32, n_layer=2, n_head=4, n_positions=128)
    else:
        sizes |= dict(hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4, word_embed_proj_dim=32)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **sizes)).eval()
    ids = tiny.tokens(20, batch=2)
    expected = model.generate(ids, max_new_tokens=20, do_sample=False, pad_token_id=0)
    model.set_attn_implementation("treekv")
    with pytest.raises(TreeKVError, match=f"{family}.*positions='original'"):
        TreeKVCache(TreeKVConfig(cache_size=64, positions="rank"), model.config)
    cache = TreeKVCache(TreeKVConfig(cache_size=64), model.config)
    assert cache.config.positions == "original"
    got = model.generate(ids, past_key_values=cache, max_new_tokens=20, do_sample=False, pad_token_id=0)
    assert torch.equal(got, expected)


@pytest.mark.parametrize("positions", ["rank", "original"])
@pytest.mark.parametrize(
    "family, changes, words",
    [
        ("mistral", dict(sliding_window=16), "no layer of this 'mistral' model has full attention"),
        ("inkling_text", {}, "'inkling_text' have a learned bias of positions"),
        ("doge", {}, "'doge' have a learned mask"),
        ("gemma3_text", dict(use_bidirectional_attention=True), "attends in both directions"),
        ("llama", dict(is_causal=False), "attends in both directions"),
        ("diffllama", {}, "'diffllama' attend twice in every layer"),
        ("jetmoe", {}, "'jetmoe' repeat cached keys"),
        ("minimax", {}, "'minimax' accept no other cache than their own"),
        ("git", {}, "'git' compute the attention of text without"),
        ("bigbird_pegasus", dict(is_encoder_decoder=False), "'bigbird_pegasus' mark their attention as bidirectional"),
        ("gemma3n_text", dict(num_hidden_layers=2), "transformers can make no cache for this 'gemma3n_text' model"),
        ("bert", {}, "'bert' model is an encoder"),
        ("bert-generation", {}, "'bert-generation' model is an encoder"),
        ("bloom", {}, "'bloom'"),
        ("falcon", {}, "'falcon'"),
        ("mpt", {}, "'mpt'"),
        ("gptj", {}, "'gptj'"),
        ("mamba", {}, "'mamba'"),
        ("deepseek_v4", {}, "of this 'deepseek_v4' model have a cache of another kind"),
        ("glm_moe_dsa", {}, "'glm_moe_dsa'"),
        ("t5", {}, "'t5'"),
        ("vit", {}, "'vit'"),
    ],
)
def test_what_does_not_work_is_refused_by_name_before_any_work(family, changes, words, positions):
    config = AutoConfig.for_model(family, **changes)
    config._attn_implementation = "treekv"
    with pytest.raises(TreeKVError, match=words):
        TreeKVCache(TreeKVConfig(cache_size=16, positions=positions), config)


@pytest.mark.parametrize("changed", ["repeat", "twice"])
def test_attention_to_other_keys_than_the_cached_ones_is_refused_in_the_first_pass(changed, monkeypatch):
    """What a family that is not known by name would do."""
    model = tiny.llama()
    own = attention.treekv_attention

    def other(module, query, key, value, *arguments, **options):
        if changed == "repeat":
            return own(module, query, key.clone(), value, *arguments, **options)
        own(module, query, key, value, *arguments, **options)
        return own(module, query, key, value, *arguments, **options)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "treekv", other)
    cache = TreeKVCache(TreeKVConfig(cache_size=16), model.config)
    words = {
        "repeat": "layer 0 .* did not attend to what the cache keeps",
        "twice": "layer 0 .* attends more than once",
    }
    with pytest.raises(TreeKVError, match=words[changed]):
        model(tiny.tokens(20), past_key_values=cache)
    captured = {"repeat": "never computed attention", "twice": "layer 0 .* computes attention more than once"}
    with pytest.raises(TreeKVError, match=captured[changed]):
        analysis.capture(model, None, tiny.tokens(40)[0])


def test_every_family_is_accepted_or_refused_in_one_sentence():
    accepted, without_defaults = 0, []
    for family in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        try:
            config = AutoConfig.for_model(family)
        except Exception:  # transformers' own, of various types
            without_defaults.append(family)
            continue
        try:
            supported.check_family(config)
            accepted += 1
        except TreeKVError as error:
            named = family in str(error) or config.get_text_config().model_type in str(error)
            assert named and "\n" not in str(error)
    assert accepted > 60
    assert len(without_defaults) <= 2, without_defaults  # one in transformers 5.23


def test_every_family_with_sink_logits_is_known():
    """Those that the installed transformers has: their attention is called with `s_aux`."""
    others = {"deepseek_v4", "hy_v4"}  # whose caches are of other kinds
    found = set()
    for family in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        modeling = Path(transformers.__file__).parent / "models" / family / f"modeling_{family}.py"
        if modeling.is_file() and "s_aux=" in modeling.read_text(encoding="utf-8"):
            found.add(family)
    # Layers with a sliding window, which mimo_v2_flash has them in, are not captured.
    assert found - others == supported.SINKS | {"mimo_v2_flash"}
    for family in others:
        with pytest.raises(TreeKVError, match=family):
            supported.check_family(AutoConfig.for_model(family))


@pytest.mark.parametrize("with_handler", [True, False])
def test_attention_that_is_not_plain_is_refused_wherever_it_is_called(with_handler):
    """Without a handler the call would go to SDPA, which drops sink logits of each query without a word."""
    states = [torch.rand(1, 2, 3, 8) for _ in range(3)]
    if with_handler:
        states[1] = attention.attach_handler(states[1], object())
    with pytest.raises(TreeKVError, match="'sinks', which TreeKV does not compute"):
        attention.treekv_attention(torch.nn.Module(), *states, None, sinks=torch.zeros(1, 2, 3, 1))


def test_a_module_that_attends_in_both_directions_is_refused():
    module = torch.nn.Module()
    module.is_causal = False
    states = [torch.rand(1, 2, 3, 8) for _ in range(3)]
    states[1] = attention.attach_handler(states[1], object())
    with pytest.raises(TreeKVError, match="bidirectional"):
        attention.treekv_attention(module, *states, None)


def test_dynamic_rotary_scaling_cannot_be_renumbered():
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    config = AutoConfig.for_model("qwen2", rope_parameters=rope, attn_implementation="treekv")
    with pytest.raises(TreeKVError, match=r"'dynamic'.*positions='original'"):
        TreeKVCache(TreeKVConfig(cache_size=16, positions="rank"), config)
    for asked in ("original", None):
        assert TreeKVCache(TreeKVConfig(cache_size=16, positions=asked), config).config.positions == "original"
