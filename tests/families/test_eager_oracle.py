"""Families of different kinds are compressed as their own attention says; `python -m tests.families` takes all."""

from __future__ import annotations

import copy

import pytest
import torch

from tests import tiny
from tests.families import eager_oracle
from tests.families.tiny_models import build
from treekv import TreeKVCache

SHARED = dict(num_kv_shared_layers=2)
KINDS = {
    "llama": {},
    "gpt2": {},  # learned positions
    "bart": {},  # the decoder of a model with an encoder
    "phi": {},  # a part of each head is rotated
    "mixtral": {"sliding_window": None},  # experts
    "gemma2": {},  # soft-capped logits
    "gpt_oss": {},  # sink logits
    "granite_swa": {},
    "mimo_v2_flash": {},  # sink logits in sliding layers only
    "llama4_text": {},  # chunks
    "cohere2": {},
    "gemma3n_text": SHARED,  # layers that follow others
    "qwen3_next": {},  # linear attention
    "bamba": {},
    "falcon_h1": {},  # linear and full attention in the same layer
    "nemotron_h": {},  # layers without attention
    "lfm2": {},  # convolution
    "jamba": {},
    "deepseek_v3": {},  # latents
    "kimi_linear": {},  # latents and linear attention
}


@pytest.mark.parametrize("name", KINDS)
def test_kinds_of_families(name):
    plain, model = build(name, **KINDS[name]), build(name, **KINDS[name])
    model.set_attn_implementation("treekv")
    eager_oracle.generates_what_the_plain_model_generates(model, plain, 12, 4, [2], ["once"], positions="original")
    eager_oracle.steps_are_eager_attention_over_exactly_the_kept_tokens(model, plain, prompt=16, steps=3, streamed=15)


@pytest.mark.parametrize("name", ["bamba", "falcon_h1", "gemma3n_text", "deepseek_v3"])
def test_rows_copies_and_another_text(name):
    """States beside keys and values, latents and layers that follow go where the rows go."""
    model = build(name, "treekv", **KINDS[name])
    cache = TreeKVCache(eager_oracle.ORIGINAL, model.config)
    ids = tiny.tokens(21, batch=2)
    model(ids[:, :20], past_key_values=cache)
    both = copy.deepcopy(cache)
    expected = model(ids[:, 20:], past_key_values=both).logits
    one = copy.deepcopy(cache)
    one.batch_select_indices(torch.tensor([1]))
    assert torch.allclose(model(ids[1:, 20:], past_key_values=one).logits, expected[1:], atol=1e-3)
    more = copy.deepcopy(cache)
    more.batch_repeat_interleave(2)
    got = model(ids[:, 20:].repeat_interleave(2, 0), past_key_values=more).logits
    assert torch.allclose(got, expected.repeat_interleave(2, 0), atol=1e-3)
    cache.reset()
    model(ids[:, :20], past_key_values=cache)
    assert torch.allclose(model(ids[:, 20:], past_key_values=cache).logits, expected, atol=1e-3)
    assert cache.nbytes < cache.full_nbytes


@pytest.mark.parametrize("name", ["gemma3n_text", "gemma4_text"])
def test_layers_that_follow_see_the_slots_that_an_unfinished_block_left(name):
    """One token of all rows frees the slots that the block needed before it is read; of one row it does not."""
    model = build(name, "treekv", **SHARED)
    ids = tiny.tokens(36, batch=2)
    logits = []
    for real in (1, 0):
        cache = TreeKVCache(eager_oracle.ORIGINAL.replace(prefill="stream", block_size=8, cache_size=16), model.config)
        model(ids[:, :35], past_key_values=cache)
        mask = torch.ones_like(ids)
        mask[1, -1] = real
        logits.append(model(ids[:, 35:], attention_mask=mask, past_key_values=cache).logits[0, -1])
    assert torch.allclose(*logits, atol=1e-4)
