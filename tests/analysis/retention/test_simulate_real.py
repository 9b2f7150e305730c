"""How close the simulation is to a real run of a real model; docs/simulation.md shows it for all policies."""

from __future__ import annotations

import torch

import analysis
from analysis.retention.record import merge_retention, retention_from_cache
from treekv import TreeKVCache, TreeKVConfig


def test_simulation_is_close_to_a_real_run(smollm2):
    from pydoc_data.topics import topics

    model, tokenizer = smollm2
    ids = torch.tensor(tokenizer(topics["assignment"], verbose=False)["input_ids"][:448])
    assert len(ids) == 448
    captured = analysis.capture(model, tokenizer, ids)
    config = TreeKVConfig(cache_size=64, prefill="stream", block_size=16, positions="original", trace=True)
    cache = TreeKVCache(config, model.config)
    model(ids[None], past_key_values=cache)
    chance = TreeKVConfig(policy="random", cache_size=64, prefill="stream", block_size=16)
    simulated = analysis.simulate(captured, {"simulated": config, "chance": chance})
    both = merge_retention(simulated, retention_from_cache(cache, "real", captured.token_text))
    between = analysis.agreement(both).sel(other="real")
    close, chance = between.sel(policy="simulated"), between.sel(policy="chance")
    # The first layer sees the very same queries and keys; further up the two drift apart.
    assert close.values[0] > 0.99
    assert close.mean() > 0.8
    assert close.mean() > chance.mean() + 0.1
