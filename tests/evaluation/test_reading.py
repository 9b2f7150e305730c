"""A prompt that is held gives every cache what the model itself would have given it, without running the model."""

from __future__ import annotations

import gc

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from analysis.evaluation import reading
from tests import tiny
from treekv import TreeKVCache, TreeKVConfig, policies

IDS = tiny.tokens(90)[0].tolist()
TREE = TreeKVConfig(cache_size=40, sink_size=2, recent_size=10, block_size=4)
CONFIGS = [TREE.for_policy(name) for name in policies.names()] + [
    TREE.replace(importance="contribution"),
    TREE.replace(budgets="rising"),
    TREE.replace(positions="original"),
    TREE.replace(prefill="none"),
]


def hybrid():
    """Sliding layers, which transformers' own cache holds, around one with full attention."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "gemma3_text", vocab_size=tiny.VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16, query_pre_attn_scalar=16, sliding_window=16,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).eval()
    model.set_attn_implementation("treekv")
    return model


@pytest.fixture(params=[tiny.llama, hybrid])
def model(request):
    return request.param()


def reads(model) -> list[int]:
    """How many tokens each of the model's passes reads, from now on."""
    counted: list[int] = []
    model.base_model.register_forward_pre_hook(
        lambda _, args, kwargs: counted.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    return counted


@torch.inference_mode()
@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.policy}-{c.prefill}-{c.importance}-{c.budgets}")
def test_a_held_prompt_fills_a_cache_as_the_model_does(model, config):
    alone, filled = (TreeKVCache(config, model.config) for _ in range(2))
    expected = model(torch.tensor([IDS]), past_key_values=alone).logits[0, -1]
    reading.read(model, IDS, TreeKVCache(TreeKVConfig(policy="full"), model.config))
    counted = reads(model)
    assert torch.equal(reading.read(model, IDS, filled), reading._readings[model].logits)
    assert torch.allclose(reading._readings[model].logits, expected, atol=1e-5)
    assert counted == []
    assert filled.nbytes == alone.nbytes and filled.get_seq_length() == alone.get_seq_length()
    for ours, theirs in zip(filled.layers, alone.layers, strict=True):
        assert torch.equal(ours.keys, theirs.keys) and torch.equal(ours.values, theirs.values)
    for token in (3, 5, 7):  # and both go on alike
        ours = reading.next_logits(model, [token], filled)
        theirs = model(torch.tensor([[token]]), past_key_values=alone).logits[0, -1]
        assert torch.allclose(ours, theirs, atol=1e-5)


@torch.inference_mode()
def test_only_the_last_prompt_is_held():
    model = tiny.llama()
    counted = reads(model)
    for ids in (IDS, IDS, IDS[:-1], IDS):
        reading.read(model, ids, TreeKVCache(TREE, model.config))
    assert counted == [90, 89, 90]


@torch.inference_mode()
def test_what_evicts_while_it_reads_is_read_each_time():
    model = tiny.llama()
    counted = reads(model)
    for policy in ("tree", "full", "tree", "full"):
        config = TreeKVConfig(policy=policy, cache_size=40, prefill="stream")
        reading.read(model, IDS, TreeKVCache(config, model.config))
    assert counted == [90, 90, 90]  # only the full cache finds the prompt held


@torch.inference_mode()
def test_a_prompt_that_is_too_large_is_not_held(monkeypatch):
    model = tiny.llama()
    monkeypatch.setattr(reading, "MOST_BYTES", 100)
    counted = reads(model)
    for _ in range(2):
        reading.read(model, IDS, TreeKVCache(TreeKVConfig(policy="full"), model.config))
    assert counted == [90, 90]


def test_nothing_outlives_the_model():
    model = tiny.llama()
    with torch.inference_mode():
        reading.read(model, IDS, TreeKVCache(TreeKVConfig(policy="full"), model.config))
    before = len(reading._readings)
    del model
    gc.collect()
    assert len(reading._readings) < before
