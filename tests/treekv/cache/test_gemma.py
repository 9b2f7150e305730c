"""Gemma 3 270M, a real hybrid model: three of its eighteen layers attend to everything, and those are compressed."""

from __future__ import annotations

import torch

from treekv import TreeKVCache, TreeKVConfig

TEXT = "The abacus is a counting tool that was used in Europe, China and Russia for a long time. " * 12


def test_full_layers_are_compressed_and_sliding_layers_stay(gemma):
    model, tokenizer = gemma
    ids = tokenizer(TEXT, return_tensors="pt")["input_ids"]
    cache = TreeKVCache(TreeKVConfig(cache_size=64), model.config)
    model.generate(ids, past_key_values=cache, max_new_tokens=4, do_sample=False)
    full = [index for index, kind in enumerate(model.config.layer_types) if kind == "full_attention"]
    assert full == [5, 11, 17]
    for index in full:
        assert cache.kept_positions(index).shape == (1, 1, 64)
    assert cache.layers[0].keys.shape[2] == min(ids.shape[1] + 3, model.config.sliding_window - 1)


def test_room_for_everything_gives_the_tokens_of_plain_transformers(gemma):
    model, tokenizer = gemma
    ids = tokenizer(TEXT[:300], return_tensors="pt")["input_ids"]
    cache = TreeKVCache(TreeKVConfig(cache_size=256), model.config)
    got = model.generate(ids, past_key_values=cache, max_new_tokens=12, do_sample=False)
    model.set_attn_implementation("sdpa")
    try:
        assert torch.equal(got, model.generate(ids, max_new_tokens=12, do_sample=False))
    finally:
        model.set_attn_implementation("treekv")
