"""Prompts reduced by prompt_score "future" in real models: padding, heads of their own, bounds, families, refusals."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
)

import analysis
from tests import tiny
from tests.families import tiny_models
from tests.reference import prompts
from tests.reference.policies import pooled
from tests.treekv.cache.test_cache import compare
from treekv import TreeKVCache, TreeKVConfig, TreeKVError
from treekv.attention import softmax

HEADS = ((8, 14), (16, 10))


def config_of(**changes) -> TreeKVConfig:
    sizes = dict(cache_size=12, sink_size=1, recent_size=3, block_size=2, window_size=6, prompt_score="future")
    return TreeKVConfig(**{**sizes, **changes})


@pytest.mark.parametrize("length", [7, 12, 37])
@pytest.mark.parametrize("recent", [3, "eighth"])
def test_heads_choose_with_their_own_slots(llama, length, recent):
    compare(llama, config_of(budgets=HEADS, recent_size=recent), [length] + [1] * 8)


@pytest.mark.parametrize("length", [37, 150])
def test_for_squares_heads_move_queries_in_proportion_to_their_slots(llama, length):
    compare(llama, config_of(budgets=HEADS, future_reduction="energy"), [length, 1, 1, 1])


@pytest.mark.parametrize("budgets", [None, HEADS], ids=["equal", "heads"])
@pytest.mark.parametrize("score", ["future", "window"])
def test_what_follows_a_prompt_can_be_kept(llama, budgets, score):
    sizes: dict = dict(budgets=budgets)
    if score == "window":
        sizes = dict(cache_size=16, recent_size=4, budgets=budgets and ((8, 24), (16, 16)))
    config = config_of(prompt_score=score, after_prompt="keep", **sizes)
    compare(llama, config, [29, 1, 1, 6, 1, 1])
    cache = TreeKVCache(config, llama.config)
    llama(tiny.tokens(60)[:, :50], past_key_values=cache)
    before = cache.kept_tokens
    llama(tiny.tokens(60)[:, 50:], past_key_values=cache)
    assert cache.kept_tokens == before + 10
    captured = analysis.capture(llama, None, tiny.tokens(60)[0])
    evicted = analysis.simulate(captured, {"it": config}, prompt=50)["evicted_at"].values
    assert (evicted[..., 50:] == -1).all() and evicted.max() == 49


@pytest.mark.parametrize("kv_heads", [1, 4])
def test_grouped_queries(kv_heads):
    compare(tiny.llama(kv_heads=kv_heads), config_of(), [29, 1, 1, 6, 1])


@pytest.mark.parametrize("budgets", [None, HEADS], ids=["equal", "heads"])
@pytest.mark.parametrize("positions, reduction", [("rank", "sum"), ("original", "sum"), ("original", "energy")])
def test_a_padded_row_gets_what_it_gets_alone(llama, budgets, positions, reduction):
    lengths = (40, 1, 23, 12)
    ids, mask = torch.zeros(4, 40, dtype=torch.long), torch.zeros(4, 40, dtype=torch.long)
    for row, length in enumerate(lengths):
        ids[row, 40 - length :], mask[row, 40 - length :] = tiny.tokens(length, seed=row)[0], 1
    config = config_of(budgets=budgets, positions=positions, future_reduction=reduction)
    cache = TreeKVCache(config, llama.config)
    settings = dict(max_new_tokens=5, do_sample=False, pad_token_id=0)
    together = llama.generate(ids, attention_mask=mask, past_key_values=cache, **settings)
    for row, length in enumerate(lengths):
        alone = TreeKVCache(config, llama.config)
        found = llama.generate(ids[row : row + 1, 40 - length :], past_key_values=alone, **settings)
        assert together[row, 40:].tolist() == found[0, length:].tolist()
        for layer in range(2):
            held = cache.kept_positions(layer)[row]
            assert [[p for p in head.tolist() if p >= 0] for head in held] == [
                [p for p in head.tolist() if p >= 0] for head in alone.kept_positions(layer)[0]
            ]


def test_no_head_holds_more_than_its_share_after_the_prompt(llama):
    cache = TreeKVCache(config_of(budgets=HEADS, trace=True), llama.config)
    llama(tiny.tokens(60), past_key_values=cache)
    held = [(cache.kept_positions(layer)[0] >= 0).sum(-1).tolist() for layer in range(2)]
    assert held == [list(row) for row in HEADS] and cache.kept_tokens == 16
    for layer in range(2):
        trace = cache.trace[layer]
        evicted, survivor = trace.evicted_at[0], trace.survivor[0]
        assert ((evicted == 59).sum(-1) == 60 - torch.tensor(HEADS[layer])).all()
        assert ((survivor >= 0) == (evicted >= 0)).all()


def test_the_ledger_goes_on_with_the_scores_of_the_window(llama):
    """As after a prompt that is reduced block by block."""
    one, other = (TreeKVCache(config_of(prompt_score=score), llama.config) for score in ("future", "window"))
    ids = tiny.tokens(12)  # both keep it whole
    for cache in (one, other):
        llama(ids, past_key_values=cache)
    for token in tiny.tokens(30, seed=3)[0]:
        logits = [llama(token.view(1, 1), past_key_values=cache).logits for cache in (one, other)]
        assert torch.equal(*logits)


def test_bfloat16_chooses_nearly_as_float32():
    model = tiny.llama()
    kept = []
    for dtype in (torch.float32, torch.bfloat16):
        cache = TreeKVCache(config_of(cache_size=32, recent_size=8), model.config)
        model.to(dtype)(tiny.tokens(150), past_key_values=cache)
        kept.append([set(head) for head in cache.kept_positions(0)[0].tolist()])
    assert all(len(one & other) >= 24 for one, other in zip(*kept))


def tiny_of(family: type, config: type, **changes):
    torch.manual_seed(0)
    model = family(config(vocab_size=97, **changes)).eval()
    model.set_attn_implementation("treekv")
    return model


def test_without_rotary_positions_the_sum_is_plain():
    model = tiny_of(GPT2LMHeadModel, GPT2Config, n_embd=32, n_layer=2, n_head=4, n_positions=64)
    config, ids = config_of(positions="original", recent_size=2, window_share=0), tiny.tokens(50)
    cache = TreeKVCache(config, model.config)
    model(ids, past_key_values=cache)
    captured = analysis.capture(model, None, ids[0], max_tokens=50, queries=4)
    scoring = softmax.Scoring(captured.scaling[0])
    weights = softmax.attention_weights(captured.q[0][None, :, ::8], captured.k[0][None], scoring)
    for head in range(4):
        scores = weights[0, head].sum(0).tolist()
        assert cache.kept_positions(0)[0, head].tolist() == prompts.choose(config, scores, scores)[0]


def test_sliding_layers_are_left_alone():
    model = tiny_of(
        Gemma3ForCausalLM, Gemma3TextConfig, hidden_size=32, intermediate_size=48, num_hidden_layers=2, head_dim=8,
        num_attention_heads=4, num_key_value_heads=2, sliding_window=16,
        layer_types=["sliding_attention", "full_attention"],
    )  # fmt: skip
    cache = TreeKVCache(config_of(), model.config)
    model(tiny.tokens(40), past_key_values=cache)
    assert cache.kept_positions(1).shape == (1, 2, 12)
    assert cache.layers[0].keys.shape[2] == 15


def test_a_rotation_that_is_not_known_is_refused_by_name():
    model = tiny_models.build("hunyuan_v1_dense", "treekv")  # it scales keys after they are rotated
    TreeKVCache(config_of(prompt_score="window", positions="original"), model.config)
    with pytest.raises(TreeKVError, match=r"prompt_score 'future' moves queries.*'hunyuan_v1_dense'.*score 'window'"):
        TreeKVCache(config_of(positions="original"), model.config)


@pytest.mark.parametrize(
    "settings, words",
    [
        (dict(future_window=0), "future_window must be a whole number of at least 1, got 0"),
        (dict(future_reduction="mean"), "future_reduction must be one of 'sum', 'energy', got 'mean'"),
        (dict(prompt_scope=1), "prompt_scope must be a whole number of at least 2, got 1"),
        (dict(window_share=1), "window_share must be a number of at least 0 and below 1.*got 1"),
        (dict(window_share=-0.1), "window_share.*got -0.1"),
        (dict(window_share=float("nan")), "window_share.*got nan"),
        (dict(window_share="half"), "window_share.*got 'half'"),
        (dict(window_share=True), "window_share.*got True"),
        (dict(prompt_score="past"), "prompt_score must be one of 'window', 'future', got 'past'"),
        (dict(pooling="average", kernel_size=4), "kernel_size must be odd.*got 4"),
        (
            dict(prompt_score="window", window_share=0.5),
            "window_share is an option of policy 'tree' with prompt_score 'f",
        ),
        (
            dict(prompt_score="window", pooling="forward"),
            "pooling is an option.*'average' for policy 'tree', got 'forward'",
        ),
        (dict(policy="h2o"), "prompt_score is an option of policy 'tree' and must be 'window' for policy 'h2o', got"),
        (dict(policy="tree_left"), "prompt_score is an option of policy 'tree'"),
        (dict(policy="h2o", prompt_score="window", future_window=9), "future_window is an option of policy 'tree'"),
    ],
    ids=str,
)
def test_bad_settings_are_one_sentence(settings, words):
    with pytest.raises(TreeKVError, match=words) as error:
        config_of(**settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("length", [1, 2, 13])
def test_short_prompts_and_a_window_longer_than_the_prompt(llama, length):
    config = config_of(window_size=500, future_window=10_000)
    cache = TreeKVCache(config, llama.config)
    llama(tiny.tokens(length), past_key_values=cache)
    assert cache.kept_tokens == min(length, 12)


def test_the_real_model_chooses_by_the_transcription(smollm2):
    from pydoc_data.topics import topics

    model, tokenizer = smollm2
    ids = torch.tensor(tokenizer(topics["assignment"], verbose=False)["input_ids"][:157])
    config = TreeKVConfig(cache_size=40, recent_size="eighth", prompt_score="future", positions="original", trace=True)
    cache = TreeKVCache(config, model.config)
    model(ids[None], past_key_values=cache)
    captured = analysis.capture(model, tokenizer, ids)
    simulated = analysis.simulate(captured, {"it": config}, layers=[0], prompt=157)["evicted_at"].values[0, 0]
    frequencies = captured.rotary(0).frequencies.tolist()
    q, k = ([unrotated(x, frequencies) for x in each[0].double().tolist()] for each in (captured.q, captured.k))
    window = captured.weights(0, list(range(125, 157))).unflatten(0, (3, 3)).mean(1).sum(1)
    for head in range(3):
        scores = prompts.future(q[3 * head : 3 * head + 3], k[head], captured.scaling[0], frequencies, 256, 0)
        seen = pooled(window[head, config.sink_size : 157 - config.recent_size].tolist(), 12, "forward")
        kept, won_by = prompts.choose(config, seen, scores)
        assert cache.kept_positions(0)[0, head].tolist() == kept
        assert (simulated[head] < 0).nonzero()[0].tolist() == kept
        assert cache.trace[0].survivor[0, head].tolist() == [won_by.get(j, -1) for j in range(157)]


def unrotated(vectors: list[list[float]], frequencies: list[float]) -> list[list[float]]:
    return [prompts.rotated(vector, -position, frequencies) for position, vector in enumerate(vectors)]
