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
    assert budgets.possible_sizes(settings()) == [128]
    assert budgets.possible_sizes(settings(budgets=(96, 160, 128))) == [96, 128, 160]
    assert budgets.possible_sizes(settings(budgets="rising")) == [128, 64]


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
    ],
)
def test_impossible_budgets_are_refused(given, policy, words):
    with pytest.raises(TreeKVError, match=words):
        budgets.checked_budgets(given, policy, 128)


def test_random_keeps_its_budgets_in_a_comparison():
    config = TreeKVConfig(cache_size=128, budgets="rising")
    assert config.for_policy("random").budgets == "rising"
    assert config.for_policy("pyramidkv").budgets is None
