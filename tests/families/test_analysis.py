"""Captures and predictions of families of different kinds."""

from __future__ import annotations

import copy
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration

import analysis
from analysis.captures import backward_pass
from tests import tiny
from tests.families import eager_oracle
from tests.families.tiny_models import build, configuration
from treekv import TreeKVCache, TreeKVConfig, TreeKVError

SETTINGS = {"tree": eager_oracle.ORIGINAL.replace(prefill="stream", block_size=1)}


@pytest.mark.parametrize("name, kept", [("jamba", None), ("falcon_h1", None), ("falcon_h1", 0), ("qwen3_next", None)])
def test_hybrids_are_captured_and_predicted(name, kept, monkeypatch):
    """`kept`, the bytes of activations that may be kept, makes no difference where states cannot be computed again."""
    if kept is not None:
        monkeypatch.setattr(backward_pass, "KEPT_AT_MOST", kept)
    with torch.inference_mode(False):  # gradients pass through its parameters
        plain, model, ids = build(name), build(name, "treekv"), tiny.tokens(30)[0]
    weights = []

    def attend(module: nn.Module, *states: Any, **options: Any) -> Any:
        output, found = sys.modules[type(module).__module__].eager_attention_forward(module, *states, **options)
        weights.append(found)
        return output, found

    with eager_oracle.attention(plain, attend):
        plain(ids[None], use_cache=False)
    captured = analysis.capture(model, None, ids, max_tokens=30, queries=4, sensitivity=True)
    assert len(captured.layers) == len(weights) == 2
    for layer, expected in zip(captured.layers, weights, strict=True):
        assert torch.allclose(captured.weights(layer, [29])[:, 0], expected[0, :, 29], atol=1e-5)
        assert captured.gradient(layer)[:, :-1].abs().amax() > 0
    measured = analysis.measure(model, ids, SETTINGS, dtype="float32")
    predicted = analysis.replay(model, ids, SETTINGS, dtype="float32")
    assert np.allclose(predicted["loss"], measured["loss"], atol=1e-4)


@pytest.mark.parametrize(
    "name, changes, words",
    [
        ("gemma2", {}, "'gemma2' model has soft-capped attention logits, which a TreeKV cache computes"),
        ("gpt_oss", {}, "'gpt_oss' model has a learned sink logit per head"),
        ("deepseek_v3", {}, "'deepseek_v3' model has latents from which keys and values are computed"),
        ("gemma4_text", {"num_kv_shared_layers": 2}, "'gemma4_text' model has layers that attend to the keys"),
    ],
)
def test_what_is_not_captured_is_refused_by_name_before_the_model_runs(name, changes, words):
    config = configuration(name, **changes)
    config._attn_implementation = "treekv"
    model = nn.Linear(1, 1)
    model.config = config
    for ask in (
        lambda: analysis.capture(model, None, [1] * 30, queries=2),
        lambda: analysis.replay(model, torch.tensor([1] * 30), SETTINGS),
    ):
        with pytest.raises(TreeKVError, match=words):
            ask()


class Adapted(nn.Module):
    """As the library peft wraps a model."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.base_model = model
        self.config = model.config

    def get_base_model(self) -> Any:
        return self.base_model

    def forward(self, **options: Any) -> Any:
        return self.base_model(**options)


def test_a_model_with_adapters_is_captured_and_predicted_as_the_model_inside(llama):
    ids = tiny.tokens(30)[0]
    one, other = (
        analysis.capture(each, None, ids, max_tokens=30, queries=4, sensitivity=True)
        for each in (llama, Adapted(llama))
    )
    assert torch.equal(one.q[0], other.q[0]) and torch.equal(one.gradient(0), other.gradient(0))
    losses = [analysis.replay(each, ids, SETTINGS, dtype="float32")["loss"] for each in (llama, Adapted(llama))]
    assert np.array_equal(*losses)


def test_the_text_part_of_a_vision_language_model_is_compressed():
    torch.manual_seed(0)
    sizes = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    vision = CLIPVisionConfig(**sizes, image_size=16, patch_size=8)
    text = tiny.llama().config
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=96, vision_feature_layer=-1, image_seq_length=4
    )
    plain = LlavaForConditionalGeneration(config).eval()
    model = copy.deepcopy(plain)
    model.set_attn_implementation("treekv")
    ids = torch.cat([tiny.tokens(4) % 90, torch.full((1, 4), 96), tiny.tokens(12) % 90], 1)
    options = dict(pixel_values=torch.rand(1, 3, 16, 16), max_new_tokens=6, do_sample=False, pad_token_id=0)
    expected = plain.generate(ids, **options)
    for size in (40, 12):
        settings = TreeKVConfig(cache_size=size, sink_size=2, recent_size=4, block_size=2)
        cache = TreeKVCache(settings, model.config)
        got = model.generate(ids, past_key_values=cache, **options)
        assert size == 12 or torch.equal(got, expected)
        assert cache.kept_positions(0).shape == (1, 2, min(size, 25))
