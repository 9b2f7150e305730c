"""Replay against a real run of layers of a real model, at original positions; docs/simulation.md has rank positions."""

from __future__ import annotations

import numpy as np
import torch

import analysis
from treekv import TreeKVConfig, load_model


def test_replay_equals_a_real_run(shallow):
    from pydoc_data.topics import topics

    model, tokenizer = load_model(str(shallow))
    ids = torch.tensor(tokenizer(topics["assignment"], verbose=False)["input_ids"][:224])
    base = TreeKVConfig(cache_size=32, prefill="stream", block_size=16, positions="original")
    configs = {policy: base.replace(policy=policy) for policy in ("streaming", "tree_left", "random", "tree", "tova")}
    predicted, measured = (
        find(model, ids, configs, dtype="float32")["loss"] for find in (analysis.replay, analysis.measure)
    )
    for policy in ("full", "streaming", "tree_left", "random"):
        np.testing.assert_allclose(predicted.sel(policy=policy), measured.sel(policy=policy), atol=1e-3)
    # Where two scores are nearly equal, rounding can decide between them.
    for policy in ("tree", "tova"):
        assert np.abs(predicted - measured).sel(policy=policy).mean() < 0.01
