"""Capacities per layer: totals, shapes, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treekv import TreeKVConfig, TreeKVError, budgets
from treekv.policies import Settings


def settings(**changes) -> Settings:
    return Settings(**{"cache_size": 128, "sink_size": 4, "recent_size": 60, "block_size": 16, **changes})


@given(st.integers(1, 40), st.sampled_from(["rising", "falling"]), st.sampled_from(["once", "stream"]))
def test_shapes_keep_the_total_and_come_in_whole_blocks(layers, shape, prefill):
    sizes = budgets.layer_sizes(settings(budgets=shape, prefill=prefill), layers)
    assert len(sizes) == layers and sum(sizes) == 128 * layers
    assert sizes == sorted(sizes, reverse=shape == "falling")
    assert prefill == "stream" or all(size % 16 == 0 for size in sizes)


def test_without_budgets_every_layer_gets_the_same():
    assert budgets.layer_sizes(settings(), 3) == [128] * 3
    assert budgets.possible_sizes(settings()) == [(128, 60)]
    assert budgets.possible_sizes(settings(budgets=(96, 160, 128))) == [(96, 44), (128, 60), (160, 76)]
    assert budgets.possible_sizes(settings(budgets="rising")) == [(64, 28), (128, 60)]
    table = ((96, 160), (160, 96))
    assert budgets.possible_sizes(settings(budgets=table)) == [(96, 44), (160, 76)]
    recents = ((5, 6), (7, 5))
    assert budgets.possible_sizes(settings(budgets=table, recent_budgets=recents)) == [(96, 5), (160, 6), (160, 7)]


def test_recent_tokens_are_scaled_with_the_capacity():
    assert budgets.scaled_recent(settings(), 64) == 28  # the default of a cache of 64
    assert budgets.scaled_recent(settings(recent_size=32), 64) == 16


@pytest.mark.parametrize(
    "given, policy, words",
    [
        ("flat", "tree", "'rising' or 'falling', got 'flat'"),
        ([1, 2.5], "tree", "whole numbers"),
        ([], "tree", "list of whole numbers"),
        ([64, 64], "tree", "add up to"),
        ("rising", "full", "'full'"),
        ("rising", "pyramidkv", "'pyramidkv'"),
        ([[128, 128], [128]], "tree", r"row 1 is \[128\]"),
        ([[128, 128], 128], "tree", "row 1 is 128"),
        ([[128, 128], [128, 1.5]], "tree", "row 1 has 1.5"),
        ([[128, 128], [256, 0]], "tree", "at least 1, but row 1 has 0"),
        ([[128, 120], [128, 128]], "tree", "128 x 4 = 512.*got a sum of 504"),
        ([[120, 136]], "tova", "'tova', whose heads keep the same tokens"),
        ([[120, 136]], "pyramidkv", "'pyramidkv'"),
    ],
)
def test_impossible_budgets_are_refused(given, policy, words):
    with pytest.raises(TreeKVError, match=words):
        budgets.checked_budgets(given, policy, 128)


def test_random_keeps_its_budgets_in_a_comparison():
    config = TreeKVConfig(cache_size=128, budgets="rising")
    assert config.for_policy("random").budgets == "rising"
    assert config.for_policy("pyramidkv").budgets is None


@pytest.mark.parametrize("size, recent", [(24, 8), (40, 16), (52, 16), (64, 16), (128, 32), (320, 80), (8, 2)])
def test_a_quarter_is_recent(size, recent):
    assert budgets.quarter(size, 4) == recent


@pytest.mark.parametrize("size, recent", [(5, 0), (20, 6), (40, 16), (128, 16), (200, 25), (256, 32), (900, 32)])
def test_an_eighth_is_recent(size, recent):
    assert budgets.eighth(size, 4) == recent
    assert TreeKVConfig(cache_size=max(size, 8), recent_size="eighth").recent_size == budgets.eighth(max(size, 8), 4)


def test_heads_have_recent_sizes_of_their_own():
    config = TreeKVConfig(cache_size=128, budgets=[[52, 128], [128, 204]], recent_size="quarter")
    assert config.recent_size == 32 and config.recent_budgets == "quarter" and config.block_size == 4
    assert [[own.recent_size for own in row] for row in config.per_head(2, 2)] == [[16, 32], [32, 51]]
    assert TreeKVConfig.from_dict(config.to_dict()) == config
    assert config.replace(recent_size=40).recent_budgets is None
    halves = config.replace(recent_budgets=None)
    assert [[own.recent_size for own in row] for row in halves.per_head(2, 2)] == [[22, 60], [60, 98]]
    table = TreeKVConfig(cache_size=128, budgets=[[52, 128], [128, 204]], recent_size=[[10, 20], [30, 40]])
    assert table.recent_size == 25 and TreeKVConfig.from_dict(table.to_dict()) == table
    assert table.for_policy("streaming").recent_budgets is None
    assert [own.recent_size for own in table.for_policy("streaming").per_head(2, 2)[0]] == [48, 124]
    assert table.for_policy("tova").budgets is None and table.for_policy("tova").recent_budgets is None
    assert table.for_policy("h2o").budgets == table.budgets


@pytest.mark.parametrize(
    "given, words",
    [
        (dict(recent_size="third"), "'quarter', 'eighth', or a table.*got 'third'"),
        (dict(recent_size=[[1, 2]]), "1 layers and 2 heads, budgets have no table"),
        (dict(recent_size=[[1, 2]], budgets=[[128] * 3]), "1 layers and 2 heads, budgets have 1 layers and 3 heads"),
        (dict(recent_size=[[1, -2]], budgets=[[128] * 2]), "recent_size must be made of.*at least 0.*-2"),
        (dict(recent_size=40, recent_budgets="quarter"), "recent_size 40 contradicts recent_budgets.*32"),
        (dict(recent_size=[[20, 200]], budgets=[[128, 128]]), "give a head 128 tokens"),
        (dict(budgets=[[5, 251]]), "give a head 5 tokens"),
        (dict(budgets=[[120, 136]], block_size=16), "give a head 120 tokens: block_size must divide"),
    ],
)
def test_impossible_sizes_of_heads_are_refused(given, words):
    with pytest.raises(TreeKVError, match=words):
        TreeKVConfig(cache_size=128, **given)
