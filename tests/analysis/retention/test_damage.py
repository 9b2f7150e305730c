"""Damage against its definition, token by token, and against what the model's loss really does."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import analysis
from analysis.retention import damage
from tests import tiny
from tests.reference import sensitivity as reference
from treekv import TreeKVConfig

CONFIGS = {
    "tree": TreeKVConfig(cache_size=24, sink_size=2, prefill="stream", block_size=8),
    "streaming": TreeKVConfig(policy="streaming", cache_size=24),
    "full": TreeKVConfig(policy="full"),
}


def captured_with_gradients(**changes):
    with torch.inference_mode(False):
        model = tiny.llama(**changes)
        return analysis.capture(model, None, tiny.tokens(75)[0], queries=4, sensitivity=True)


@pytest.mark.parametrize("kv_heads", [2, 4])
@pytest.mark.parametrize("at_once", [7, 128])
def test_equals_the_slow_definition(kv_heads, at_once, monkeypatch):
    monkeypatch.setattr(damage, "QUERIES_AT_ONCE", at_once)
    captured = captured_with_gradients(kv_heads=kv_heads)
    record = analysis.simulate(captured, CONFIGS)
    found = analysis.output_loss(captured, record)["damage"]
    assert found.dims == ("policy", "layer", "kv_head") and found.attrs["units"] == "nats a token"
    for policy in CONFIGS:
        for layer in (0, 1):
            for head in range(kv_heads):
                at = dict(policy=policy, layer=layer)
                evicted = record["evicted_at"].sel(at).values[head]
                expected = reference.damage(captured, evicted, layer, head)
                np.testing.assert_allclose(found.sel(**at, kv_head=head), expected, rtol=2e-3, atol=1e-9)
    assert (found.sel(policy="tree") > 0).all()
    np.testing.assert_allclose(found.sel(policy="full"), 0, atol=1e-9)


def test_half_precision():
    captured = captured_with_gradients()
    record = analysis.simulate(captured, CONFIGS)
    parts = {name: [x.half() for x in getattr(captured, name)] for name in ("q", "k", "v")}
    half = dataclasses.replace(captured, **parts)
    whole, found = (analysis.output_loss(one, record)["damage"] for one in (captured, half))
    np.testing.assert_allclose(found.sel(policy="tree"), whole.sel(policy="tree"), rtol=0.05)


def test_a_capture_without_gradients_has_no_damage(captured, tmp_path):
    lost = analysis.output_loss(captured, analysis.simulate(captured, CONFIGS))
    assert "damage" not in lost and "kv_head" not in lost.coords


def test_files_keep_it(tmp_path):
    captured = captured_with_gradients()
    lost = analysis.output_loss(captured, analysis.simulate(captured, CONFIGS))
    assert analysis.open(analysis.save(lost, tmp_path / "loss.nc")).identical(lost)
