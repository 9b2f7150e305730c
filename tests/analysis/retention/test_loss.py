"""Output loss against sums over the kept tokens, by the definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import analysis
from analysis.retention.loss import output_loss
from tests import tiny
from treekv import TreeKVConfig, TreeKVError

CONFIGS = {
    "tree": TreeKVConfig(cache_size=32, sink_size=2, prefill="stream", block_size=8),
    "streaming": TreeKVConfig(policy="streaming", cache_size=32),
    "full": TreeKVConfig(policy="full"),
}


@pytest.fixture(scope="module")
def retention(captured):
    return analysis.simulate(captured, CONFIGS)


def slow_loss(captured, retention, policy, layer, query):
    """Mass of each query head and the layer's error, one token at a time."""
    evicted = retention["evicted_at"].sel(policy=policy, layer=layer).values
    i = captured.layers.index(layer)
    group = captured.query_heads // captured.kv_heads
    masses, distance, size = [], 0.0, 0.0
    for head in range(captured.query_heads):
        q, k, v = (
            captured.q[i][head, query].double(),
            captured.k[i][head // group].double(),
            captured.v[i][head // group].double(),
        )
        odds = [math.exp(float(q @ k[j]) * captured.scaling[i]) for j in range(query + 1)]
        kept = [j for j in range(query + 1) if evicted[head // group, j] == -1 or evicted[head // group, j] >= query]
        full = sum(odds[j] * v[j] for j in range(query + 1)) / sum(odds)
        left = sum(odds[j] * v[j] for j in kept) / sum(odds[j] for j in kept)
        masses.append(sum(odds[j] for j in kept) / sum(odds))
        distance += float((left - full).square().sum())
        size += float(full.square().sum())
    return masses, math.sqrt(distance / size)


@pytest.mark.parametrize("layer", [0, 1])
def test_equals_the_slow_definition(captured, retention, layer, monkeypatch):
    monkeypatch.setattr("analysis.retention.loss.WEIGHTS_AT_ONCE", 4 * captured.tokens * 2)  # two queries at a time
    queries = [30, 31, 100, 199, 300]
    lost = output_loss(captured, retention, queries)
    assert lost["query"].values.tolist() == queries
    for policy in CONFIGS:
        for query in queries:
            mass, error = slow_loss(captured, retention, policy, layer, query)
            at = lost.sel(policy=policy, layer=layer, query=query)
            np.testing.assert_allclose(at["mass"].values, mass, atol=2e-5)
            np.testing.assert_allclose(at["error"].item(), error, atol=2e-5)


def test_nothing_is_lost_before_the_cache_is_full_and_with_the_full_cache(captured, retention):
    lost = output_loss(captured, retention, [5, 31, 300])
    np.testing.assert_allclose(lost["mass"].sel(query=[5, 31]), 1, atol=1e-5)
    np.testing.assert_allclose(lost["error"].sel(policy="full"), 0, atol=1e-5)
    assert (lost["mass"].sel(policy="streaming", query=300) < 0.999).any()


def test_a_query_sees_the_same_tokens_as_in_a_real_run(sharp_llama, captured, token_ids):
    """In the first layer of a run at true positions the output itself must be the one that `loss` describes."""
    from treekv import TreeKVCache

    config = TreeKVConfig(cache_size=32, sink_size=2, prefill="stream", block_size=8, positions="original", trace=True)
    model, outputs = sharp_llama("treekv"), []
    projection = model.model.layers[0].self_attn.o_proj
    hook = projection.register_forward_pre_hook(lambda module, args: outputs.append(args[0][0].clone()))
    try:
        model(token_ids[None])
        model(token_ids[None], past_key_values=TreeKVCache(config, model.config))
    finally:
        hook.remove()
    full, ours = outputs
    queries = [50, 123, 300]
    error = torch.linalg.vector_norm(ours - full, dim=-1) / torch.linalg.vector_norm(full, dim=-1)
    lost = output_loss(captured, analysis.simulate(captured, {"it": config}), queries)
    np.testing.assert_allclose(lost["error"].sel(policy="it", layer=0), error[queries], rtol=1e-3, atol=1e-4)
    assert (lost["error"].sel(policy="it", layer=0) > 0.01).any()


def test_after_the_output_projection_it_is_what_the_layer_adds(sharp_llama, captured, token_ids):
    """The error of what the model's own projection gives, in the first layer of a real run at true positions."""
    from treekv import TreeKVCache

    config = TreeKVConfig(cache_size=32, sink_size=2, prefill="stream", block_size=8, positions="original", trace=True)
    model, outputs = sharp_llama("treekv"), []
    hook = model.model.layers[0].self_attn.o_proj.register_forward_hook(lambda *args: outputs.append(args[2][0]))
    try:
        model(token_ids[None])
        model(token_ids[None], past_key_values=TreeKVCache(config, model.config))
    finally:
        hook.remove()
    full, ours = outputs
    queries = [50, 123, 300]
    error = torch.linalg.vector_norm(ours - full, dim=-1) / torch.linalg.vector_norm(full, dim=-1)
    retention = analysis.simulate(captured, {"it": config})
    lost = output_loss(captured, retention, queries, model=model)
    np.testing.assert_allclose(lost["error"].sel(policy="it", layer=0), error[queries], rtol=1e-3, atol=1e-4)
    assert lost.attrs["projected"] == 1 and output_loss(captured, retention, queries).attrs["projected"] == 0
    np.testing.assert_array_equal(lost["mass"], output_loss(captured, retention, queries)["mass"])


def test_default_queries_and_files(captured, retention, tmp_path):
    lost = output_loss(captured, retention)
    assert lost["query"].values[0] == captured.tokens // 2 and lost["query"].values[-1] == captured.tokens - 1
    assert analysis.open(analysis.save(lost, tmp_path / "loss.nc")).identical(lost)


def test_another_model_is_refused(captured, retention):
    other = tiny.llama(head_dim=24)
    with pytest.raises(TreeKVError, match=r"takes 24 channels a head, but the captured values have 8"):
        output_loss(captured, retention, model=other)


def test_another_text_is_refused(captured, retention):
    with pytest.raises(TreeKVError, match=r"300 tokens, the capture 301"):
        output_loss(captured, retention.isel(position=slice(300)))
    with pytest.raises(TreeKVError, match=r"layer 7"):
        output_loss(captured, retention.assign_coords(layer=[0, 7]))
    with pytest.raises(TreeKVError, match=r"position 301"):
        output_loss(captured, retention, [301])
