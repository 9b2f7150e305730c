"""The log of evictions: small, exact, and undone to any checkpoint."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from treekv import TreeKVConfig
from treekv.cache.ledger import Ledger
from treekv.cache.trace import LayerTrace

HEADS = 2


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["tree", "random", "streaming"])
@pytest.mark.parametrize("block", [1, 2, 4, 16])
def test_a_trace_costs_less_than_eight_bytes_per_token_and_head(policy, block):
    """Also in blocks, whose evictions a policy may make in several parts."""
    config = TreeKVConfig(policy=policy, cache_size=128, trace=True)
    ledger = Ledger(config, rows=2, heads=HEADS)
    expected = []
    for last in range(block - 1, 4000, block):
        plan = ledger.plan_slots(slice(0, 2), block)
        ledger.step(slice(0, 2), plan, torch.rand(plan.distance.shape))
        expected += [last] * (ledger.seen[0] - 128 - len(expected) if last >= 128 else 0)
        if last // block == 20:
            ledger.select(torch.tensor([1, 0]))
    assert ledger.trace.nbytes < 8 * 4000 * 2 * HEADS
    assert len(ledger.trace._runs[0]) == 1
    for row in range(2):
        evicted_at = ledger.trace.evicted_at[row]
        assert evicted_at[0][evicted_at[0] >= 0].sort().values.tolist() == expected
        assert ((evicted_at >= 0).sum(1) == 4000 - 128).all()


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 2)), max_size=40), st.data())
def test_runs_record_when_each_token_was_evicted(steps, data):
    """Steps at any distance, each in one or two parts, some undone."""
    trace = LayerTrace(1, 1, torch.device("cpu"))
    now, expected, logged = 0, [], 0
    for distance, count, parts in steps:
        mark, before = trace.mark(0), list(expected)
        now += distance
        for _ in range(parts):
            trace.record(slice(0, 1), torch.arange(logged, logged + count).view(1, 1, 1, -1), now)
            expected += [now] * count
            logged += count
        if data.draw(st.booleans()):
            trace.take_back(0, mark)
            logged -= len(expected) - len(before)
            expected = before
    trace.extend(slice(0, 1), logged)
    assert trace.evicted_at[0, 0].tolist() == expected


def test_rows_are_selected_with_their_log():
    trace = LayerTrace(2, 1, torch.device("cpu"))
    trace.extend(slice(0, 2), 5)
    trace.record(slice(0, 1), torch.tensor([1]).view(1, 1, 1, 1), 3)
    trace.record(slice(1, 2), torch.tensor([[2], [4]]).view(2, 1, 1, 1), 4)
    assert trace.evicted_at[:, 0].tolist() == [[-1, 3, -1, -1, -1], [-1, -1, 4, -1, -1]]
    assert trace.survivor[:, 0].tolist() == [[-1] * 5, [-1, -1, 4, -1, -1]]
    trace.select(torch.tensor([1, 1, 0]))
    assert trace.evicted_at[:, 0].tolist() == [[-1, -1, 4, -1, -1]] * 2 + [[-1, 3, -1, -1, -1]]
    assert trace.of(slice(2, 3)).evicted_at[0, 0].tolist() == [-1, 3, -1, -1, -1]
