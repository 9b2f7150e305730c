"""Policy "openvino" against the engine's algorithm on lists, with random scores, and what its settings refuse."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.reference import openvino as reference
from tests.reference.policies import Entry
from treekv import TreeKVConfig, TreeKVError
from treekv.cache.ledger import Ledger

HEADS = 2


@given(
    block=st.integers(1, 5),
    areas=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4)),
    more=st.integers(0, 3),
    prompt=st.integers(1, 90),
    aggregation=st.sampled_from(["norm_sum", "sum"]),
    ties=st.booleans(),
    seed=st.integers(0, 99),
)
def test_the_ledger_evicts_the_blocks_that_the_engine_does(block, areas, more, prompt, aggregation, ties, seed):
    start, evictable, recent = (blocks * block for blocks in areas)
    most = start + evictable + recent + block - 1
    config = TreeKVConfig(
        policy="openvino",
        cache_size=most + min(more, block - 1),  # what is too little for a block more changes nothing
        sink_size=start,
        recent_size=recent,
        interval=block,
        aggregation=aggregation,
        trace=True,
    )
    generator, row = torch.Generator().manual_seed(seed), slice(0, 1)

    def weights(n: int) -> torch.Tensor:
        drawn = torch.rand(1, HEADS, n, generator=generator)
        # Quotients of equal sums round differently on lists, sums of quarters do not.
        return (drawn * 4).round() / 4 if ties and aggregation == "sum" else drawn

    ledger, window = Ledger(config, 1, HEADS), min(config.window_size, prompt)
    heads = [[Entry(p, count=min(window, prompt - p)) for p in range(prompt)] for _ in range(HEADS)]
    sums = weights(prompt)
    assert not ledger.reduces_prompt(prompt)
    ledger.admit_prompt(row, prompt, None, sums, window)
    for entries, given_by_window in zip(heads, sums[0].tolist()):
        for entry, weight in zip(entries, given_by_window):
            entry.given[prompt - 1] = weight
    reference.observe(heads, together=True)
    for step in range(prompt, prompt + 6 * block):
        plan = ledger.plan_slots(row, 1)
        by_rank = weights(ledger.held[0] + 1)
        ranks = (ledger.held[0] - plan.distance).clamp(max=ledger.held[0])
        ledger.step(row, plan, by_rank.gather(2, ranks).masked_fill(plan.distance < 0, 0.0))
        for entries, seen in zip(heads, by_rank[0].tolist()):
            entries.append(Entry(step))
            for entry, weight in zip(entries, seen):
                entry.given[step] = weight
                entry.count += 1
        reference.observe(heads, together=False)
        gone = reference.ranks_to_evict(config, heads[0], most)
        for entries in heads:
            for rank in reversed(gone):
                del entries[rank]
        positions = [entry.position for entry in heads[0]]
        assert ledger.positions(row)[0].tolist() == [positions] * HEADS
        assert len(positions) <= most


def test_a_block_is_evicted_when_one_more_than_fits_is_full():
    """The sizes of the engine's own example: 32 start, 128 recent and 672 in total, so up to 703 tokens."""
    config = TreeKVConfig(policy="openvino", cache_size=703, sink_size=32, recent_size=128)
    ledger, row, held = Ledger(config, 1, 1), slice(0, 1), []
    for _ in range(800):
        plan = ledger.plan_slots(row, 1)
        ledger.step(row, plan, torch.ones(1, 1, plan.used))
        held.append(ledger.held[0])
    assert held[:703] == list(range(1, 704))
    assert held[703:] == [672 + step % 32 for step in range(97)]
    positions = ledger.positions(row)[0, 0].tolist()
    assert positions[:32] == list(range(32)) and positions[-128:] == list(range(672, 800))


def test_the_nearest_settings_of_others():
    near = TreeKVConfig(cache_size=1024).for_policy("openvino")
    assert (near.cache_size, near.sink_size, near.recent_size, near.interval) == (1024, 32, 512, 32)
    assert (near.positions, near.aggregation, near.window_size) == ("original", "norm_sum", 8)
    assert TreeKVConfig(policy="h2o", cache_size=256).for_policy("openvino").aggregation == "sum"
    assert TreeKVConfig(cache_size=40).for_policy("openvino").cache_size == 127  # the smallest that the engine has
    other = TreeKVConfig("keydiff", cache_size=256, interval=8, prefill="stream", positions="rank")
    near_other = other.for_policy("openvino")
    assert (near_other.interval, near_other.prefill, near_other.positions) == (32, "once", "original")
    assert near.for_policy("tree") == TreeKVConfig(cache_size=1024, recent_size=508)


@pytest.mark.parametrize(
    "settings, words",
    [
        (dict(cache_size=126), ["cache_size must be at least 127", "126"]),
        (dict(sink_size=4), ["sink_size", "whole blocks of 32", "4"]),
        (dict(recent_size=0), ["recent_size", "one or more whole blocks", "0"]),
        (dict(aggregation="adaptive_rkv"), ["aggregation", "'norm_sum', 'sum'", "'adaptive_rkv'"]),
        (dict(budgets="rising"), ["budgets", "'openvino'"]),
        (dict(after_prompt="keep"), ["after_prompt 'keep'", "'openvino'"]),
        (dict(policy="h2o", aggregation="sum"), ["aggregation", "'openvino'", "'h2o'", "'sum'"]),
    ],
    ids=str,
)
def test_what_the_engine_does_not_have_is_refused(settings, words):
    with pytest.raises(TreeKVError) as error:
        TreeKVConfig(**{"policy": "openvino", "cache_size": 256, **settings})
    for word in words:
        assert word in str(error.value)
