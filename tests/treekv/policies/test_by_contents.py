"""Sizes of the policies that read keys and values, and what they refuse; what they evict is tested with the cache."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests import tiny
from treekv import TreeKVCache, TreeKVConfig, TreeKVError
from treekv.policies.by_contents import Candidates
from treekv.policies.lagkv import LagKV
from treekv.policies.ranking import gaussians
from treekv.policies.rkv import redundancies


@pytest.mark.parametrize(
    "policy, sinks, recent, interval",
    [
        ("keydiff", 0, 0, 1),
        ("lagkv", 4, 0, 128),
        ("rkv", 0, 8, 128),
        ("snapkv_decode", 0, 32, 32),
        ("cur", 4, 64, 64),
        ("vase", 4, 64, 64),
    ],
)
def test_published_sizes_and_smaller_ones_in_a_small_cache(policy, sinks, recent, interval):
    config = TreeKVConfig(policy=policy, cache_size=1024)
    assert (config.sink_size, config.recent_size, config.interval) == (sinks, recent, interval)
    small = config.replace(cache_size=64)
    assert (small.recent_size, small.interval) == (min(recent, 8), min(interval, 8))
    assert config.for_policy("tree").interval == 1 and TreeKVConfig().for_policy(policy) == config
    assert [own.interval for own in small.replace(budgets=(48, 80)).per_layer(2)] == [min(interval, n) for n in (6, 10)]


@pytest.mark.parametrize(
    "settings, words",
    [
        (dict(interval=2), "interval is an option of policies 'keydiff', .* must be 1 for policy 'tree', got 2"),
        (dict(policy="rkv", interval=0), "interval must be a whole number of at least 1, got 0"),
        (dict(policy="rkv", cache_size=20, recent_size=8, interval=13), "interval must be at most 12 .*, got 13"),
        (dict(policy="rkv", recent_size=0), "recent_size must be at least 1 for policy 'rkv'.* got 0"),
        (dict(policy="lagkv", cache_size=20, interval=6), "three times it with the sinks at most cache_size.* 6, "),
    ],
    ids=str,
)
def test_sizes_that_do_not_fit(settings, words):
    with pytest.raises(TreeKVError, match=words):
        TreeKVConfig(**settings)


def test_the_last_queries_count_as_bytes(llama):
    config = TreeKVConfig(policy="rkv", cache_size=16, recent_size=3)
    cache = TreeKVCache(config, llama.config)
    llama(tiny.tokens(40, batch=2), past_key_values=cache)
    slots = 2 * 2 * 17 * 2 * 8  # rows, heads, slots, keys and values, channels
    queries = 2 * 4 * 3 * 8
    assert cache.nbytes == 2 * 4 * (slots + queries)
    assert cache.full_nbytes == 2 * 4 * 2 * 2 * 40 * 2 * 8
    cache.batch_select_indices(torch.tensor([1]))
    assert cache.nbytes == 4 * (slots + queries)
    cache.reset()
    assert cache.nbytes == 0


def test_redundancy_in_parts_is_the_same(monkeypatch):
    keys = torch.randn(2, 3, 50, 8, generator=torch.Generator().manual_seed(0))
    whole = redundancies(keys)
    monkeypatch.setattr("treekv.policies.rkv.NUMBERS_AT_ONCE", 2 * 3 * 50 * 7)
    assert torch.allclose(redundancies(keys), whole)
    assert torch.allclose(whole.sum(2), torch.ones(2, 3))


def test_normal_numbers_are_normal():
    drawn = gaussians(3, (0, 1), torch.tensor([[[7]], [[9]]]), 20_000, "cpu")
    assert drawn.shape == (2, 20_000) and abs(torch.corrcoef(drawn)[0, 1]) < 0.03
    assert torch.allclose(drawn.mean(1), torch.zeros(2), atol=0.03)
    assert torch.allclose(drawn.std(1), torch.ones(2), atol=0.03)
    alone = gaussians(3, 1, 9, 20_000, "cpu")
    assert torch.equal(alone[0], drawn[1])


def test_lagkv_compares_with_a_partition_whose_tokens_are_equal():
    """As repeated words are in the first layer: no channel has a range there."""
    keys = torch.ones(1, 1, 6, 4)
    keys[:, :, 0] = torch.arange(4.0)
    contents: Any = SimpleNamespace(keys=lambda: keys, values=lambda: keys)
    config = TreeKVConfig(policy="lagkv", cache_size=6, sink_size=0, interval=2)
    tokens = Candidates(contents, kept=6, step=6, layer=0, heads=1, device=keys.device)
    assert LagKV().importance(config, tokens)[0, 0, :2].tolist() == [1, 0]
