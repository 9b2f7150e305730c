"""What is said of a model from its configuration is what transformers and a cache do with it."""

from __future__ import annotations

import pytest
import torch

from tests.families import tiny_models
from treekv import TreeKVCache, TreeKVConfig
from treekv.attention.model_use import model_use


@pytest.mark.parametrize(
    "family", ["llama", "gpt2", "gpt_bigcode", "gemma3_text", "gemma4_text", "deepseek_v3", "jamba"]
)
def test_it_is_what_a_cache_does(family):
    model = tiny_models.build(family, "treekv")
    use = model_use(model.config)
    cache = TreeKVCache(TreeKVConfig(cache_size=16), model.config)
    assert use.refused is None and use.positions == cache.config.positions and len(use.layers) == len(cache.layers)
    assert (use.reason is None) == (use.positions == "rank")
    with torch.no_grad():
        plain = tiny_models.build(family)(torch.tensor([[5]]), use_cache=True).past_key_values
    for own, layer in zip(use.layers, plain.layers, strict=True):
        if own.bytes_per_token is not None:
            assert own.compressed and own.bytes_per_token == 4 * (layer.keys.numel() + layer.values.numel())
    compressed = [own.number for own in use.layers if own.compressed]
    assert compressed == cache._compressed
    assert use.bytes_per_token == sum(use.layers[number].bytes_per_token for number in compressed)


@pytest.mark.parametrize("family", ["rwkv", "mamba", "deepseek_v32", "bart"])
def test_refused_models_are_described_too(family):
    use = model_use(tiny_models.configuration(family))
    assert use.refused is not None and use.positions is None and not any(layer.compressed for layer in use.layers)


def test_usual_models_are_described_without_being_built():
    use = model_use(tiny_models.usual_configuration("llama4"))
    assert use.family == "llama4_text" and use.refused is None
    rotates = [layer.rotates for layer in use.layers if layer.compressed]
    assert not any(rotates) and len(rotates) == 12  # every fourth layer has no positions
