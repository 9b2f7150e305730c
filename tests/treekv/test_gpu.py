"""The same on a GPU, and over two devices; skipped where there is none."""

from __future__ import annotations

import pytest
import torch

from tests import tiny
from treekv import TreeKVCache, TreeKVConfig

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")

CONFIGS = [
    TreeKVConfig(cache_size=12, sink_size=2, recent_size=4, block_size=2, trace=True),
    TreeKVConfig(cache_size=12, sink_size=2, recent_size=4, prefill="stream", block_size=4, trace=True),
    TreeKVConfig(policy="h2o", cache_size=12, trace=True),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.policy}-{config.prefill}")
def test_a_gpu_keeps_and_generates_what_the_cpu_does(config):
    ids = tiny.tokens(40, batch=2)
    results = []
    for device in ("cpu", "cuda"):
        model = tiny.llama().to(device)
        cache = TreeKVCache(config, model.config)
        out = model.generate(ids.to(device), past_key_values=cache, max_new_tokens=30, do_sample=False)
        results.append((out.cpu(), cache.kept_positions(1).cpu(), cache.trace[1].evicted_at.cpu()))
    for on_cpu, on_gpu in zip(*results):
        assert torch.equal(on_cpu, on_gpu)


def test_layers_spread_over_two_devices():
    from accelerate import dispatch_model

    config = CONFIGS[0]
    ids = tiny.tokens(40)
    expected_cache = TreeKVCache(config, tiny.llama().config)
    expected = tiny.llama().generate(ids, past_key_values=expected_cache, max_new_tokens=20, do_sample=False)
    model = dispatch_model(
        tiny.llama(),
        {
            "model.embed_tokens": 0,
            "model.layers.0": 0,
            "model.layers.1": "cpu",
            "model.norm": "cpu",
            "model.rotary_emb": 0,
            "lm_head": "cpu",
        },
        main_device=0,
    )
    cache = TreeKVCache(config, model.config)
    out = model.generate(ids.to("cuda"), past_key_values=cache, max_new_tokens=20, do_sample=False)
    assert torch.equal(out.cpu(), expected)
    for layer in range(2):
        assert torch.equal(cache.kept_positions(layer).cpu(), expected_cache.kept_positions(layer))
