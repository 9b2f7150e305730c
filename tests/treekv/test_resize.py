"""Settings for another size of the cache."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treekv import TreeKVConfig, TreeKVError, shipped
from treekv.resize import changed, in_proportion, resized


@given(st.data())
def test_shares_are_kept_and_add_up(data) -> None:
    sizes = data.draw(st.lists(st.integers(1, 900), min_size=1, max_size=4, unique=True))
    table = data.draw(st.lists(st.tuples(*[st.sampled_from(sizes)] * 3), min_size=1, max_size=6))
    mean = data.draw(st.integers(1, 2000))
    found = in_proportion(tuple(table), mean)
    cells, others = [cell for row in table for cell in row], [cell for row in found for cell in row]
    assert sum(others) == mean * len(cells)
    assert all(
        abs(other - cell * mean * len(cells) / sum(cells)) < 1 + 1e-9 for cell, other in zip(cells, others, strict=True)
    )
    assert len(set(others)) <= len(set(cells)) + 1
    assert in_proportion(tuple(cells), mean) == tuple(others)


@pytest.mark.parametrize("name", shipped.names())
def test_shipped_settings_have_other_sizes(name: str) -> None:
    config = TreeKVConfig.load(name)
    assert resized(config, config.cache_size) == config
    twice = resized(config, 2 * config.cache_size)
    assert twice.budgets == tuple(tuple(2 * cell for cell in row) for row in config.budgets)
    assert (twice.policy, twice.recent_budgets, twice.scope) == (config.policy, config.recent_budgets, config.scope)


def test_other_settings_are_replaced() -> None:
    assert resized(TreeKVConfig(cache_size=128), 64) == TreeKVConfig(cache_size=64)
    given = TreeKVConfig(cache_size=128, recent_size=100, block_size=8)
    assert resized(given, 256).recent_size == 100
    assert resized(given, 64) == TreeKVConfig(cache_size=64)
    own = TreeKVConfig(cache_size=32, budgets=((24, 40),), recent_size=((8, 20),), prefill="stream", block_size=1)
    assert resized(own, 32) is own
    assert resized(own, 64).budgets == ((48, 80),) and resized(own, 64).recent_budgets is None


@pytest.mark.parametrize("size", [0, -3, 2.5, "many"])
def test_impossible_sizes_are_refused(size) -> None:
    for config in (TreeKVConfig(cache_size=64), TreeKVConfig.load("smollm2-64")):
        with pytest.raises(TreeKVError, match="cache_size"):
            resized(config, size)


def test_budgets_follow_a_changed_size_unless_they_are_given() -> None:
    config = TreeKVConfig.load("smollm2-64")
    assert changed(config, cache_size=96, block_size=8) == resized(config, 96).replace(block_size=8)
    assert changed(config, stride=2).budgets == config.budgets
    assert changed(config, cache_size=32, budgets=None, scope=2).budgets is None
    with pytest.raises(TreeKVError, match="recent_size must be"):
        changed(config, cache_size=96, recent_size=-1)
