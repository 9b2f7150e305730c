"""Recency bias: the ideal density against coin tosses, distance and Gini coefficient against their definitions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import analysis
from analysis.retention.bias import gini, ideal_density, recency_bias
from tests.reference.density import tossed_density
from treekv import TreeKVConfig, TreeKVError


@pytest.mark.parametrize("tokens", [20, 24, 37, 52, 100, 300])
@pytest.mark.parametrize(
    "sizes", [(24, 2, 6, 1, None), (24, 4, 8, 1, None), (24, 2, 6, 2, None), (24, 2, 6, 1, 1), (24, 2, 6, 1, 3)]
)
def test_ideal_density_is_what_chance_gives(sizes, tokens):
    size, sink, recent, stride, height = sizes
    config = TreeKVConfig(
        cache_size=size, sink_size=sink, recent_size=recent, stride=stride, max_height=height, prefill="none"
    )
    density = ideal_density(config, tokens)
    assert density.sum() == pytest.approx(min(size, tokens))
    assert (density[: min(sink, tokens)] == 1).all() and (density[-recent:] == 1).all()
    games = 1000
    tossed = np.array(tossed_density(size, sink, recent, stride, tokens, games, height))
    # Where a sweep's border falls inside a pair the formula splits a token, chance does not: compare running sums.
    assert np.abs(np.cumsum(density) - np.cumsum(tossed)).max() < 0.75


def test_ideal_density_halves_with_each_sweep():
    config = TreeKVConfig(cache_size=64, sink_size=4, recent_size=28, prefill="none")  # a region of 32
    density = ideal_density(config, 64 + 3 * 32)  # exactly three sweeps
    assert density.tolist() == [1] * 4 + [1 / 8] * 64 + [1 / 4] * 32 + [1 / 2] * 32 + [1] * 28


def test_a_limit_of_the_height_spreads_what_is_kept_evenly_over_the_far_past():
    config = TreeKVConfig(cache_size=128, sink_size=4, recent_size=60, prefill="none")  # a region of 64
    tokens = 4096
    tenths = np.array_split(ideal_density(config.replace(max_height=3), tokens), 10)
    far = np.array([tenth.sum() for tenth in tenths[1:9]])
    assert far.min() > 0.7 * far.mean() and far.max() < 1.4 * far.mean() and 2 < far.mean() < 4  # 31 frozen
    assert ideal_density(config, tokens)[4:2048].sum() < 1


def slow_distance(kept, density):
    """Earth mover's distance on the line: the area between the two cumulative distributions."""
    mine, ideal = kept / kept.sum(), density / density.sum()
    return sum(abs(mine[: i + 1].sum() - ideal[: i + 1].sum()) for i in range(len(kept) - 1))


def slow_gini(amounts):
    pairs = list(itertools.product(amounts, amounts))
    return sum(abs(a - b) for a, b in pairs) / len(pairs) / (2 * np.mean(amounts))


def test_gini():
    assert gini(np.ones(10)) == 0 and gini(np.zeros(10)) == 0
    assert gini(np.eye(10)[3]) == pytest.approx(0.9)
    amounts = np.random.default_rng(0).uniform(size=10)
    assert gini(amounts) == pytest.approx(slow_gini(amounts))


CONFIGS = {
    "tree": TreeKVConfig(cache_size=32, sink_size=4, recent_size=12),
    "streaming": TreeKVConfig(policy="streaming", cache_size=32),
    "full": TreeKVConfig(policy="full"),
}


@pytest.mark.parametrize("step", [None, 150])
def test_equals_the_slow_definition(captured, step):
    retention = analysis.simulate(captured, CONFIGS)
    last = captured.tokens - 1 if step is None else step
    result = recency_bias(retention, step)
    for policy in CONFIGS:
        kept = analysis.kept_mask(retention, last).sel(policy=policy, layer=1, head=0).values[: last + 1]
        density = np.ones(last + 1) if policy == "full" else ideal_density(CONFIGS["tree"], last + 1)
        at = result.sel(policy=policy, layer=1, head=0)
        assert at["distance"].item() == pytest.approx(slow_distance(kept, density), abs=1e-9)
        tenths = [part.mean() for part in np.array_split(kept.astype(float), 10)]
        assert at["gini"].item() == pytest.approx(slow_gini(tenths))
    assert (result["distance"].sel(policy="full") == 0).all()
    distance = result["distance"].mean(("layer", "head"))
    assert distance.sel(policy="tree") < distance.sel(policy="streaming")


def test_another_ideal_is_scaled_to_the_kept_tokens(captured):
    retention = analysis.simulate(captured, CONFIGS)
    ideal = TreeKVConfig(cache_size=64, sink_size=2, recent_size=16)
    result = recency_bias(retention, ideal=ideal).sel(policy="tree", layer=0, head=1)
    kept = analysis.kept_mask(retention, captured.tokens - 1).sel(policy="tree", layer=0, head=1).values
    expected = ideal_density(TreeKVConfig(cache_size=32, sink_size=2, recent_size=8, prefill="none"), captured.tokens)
    assert result["distance"].item() == pytest.approx(slow_distance(kept, expected), abs=1e-9)


def test_too_few_tokens_are_refused(captured, made_record):
    retention = analysis.simulate(captured, {"streaming": TreeKVConfig(policy="streaming", cache_size=5)})
    assert np.isnan(recency_bias(retention)["distance"]).all() and not np.isnan(recency_bias(retention)["gini"]).any()
    with pytest.raises(TreeKVError, match="at least 10 tokens, got 6"):
        recency_bias(made_record(40), step=5)
    with pytest.raises(TreeKVError, match="region of at least 2"):
        ideal_density(TreeKVConfig(policy="streaming", cache_size=16), 100)
