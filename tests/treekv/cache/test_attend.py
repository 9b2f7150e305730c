"""One attention call against the softmax written out."""

from __future__ import annotations

import pytest
import torch

from treekv.attention.softmax import Scoring
from treekv.cache.attend import (
    NewTokens,
    Observation,
    attend_all,
    attend_block,
    attend_prompt,
    prompt_scores,
    store_prompt,
    value_norms,
)
from treekv.cache.layer import TreeKVLayer
from treekv.cache.ledger import Ledger
from treekv.cache.padding import TokenPositions
from treekv.config import TreeKVConfig

GROUP, HEADS, DIM, SCALING = 2, 2, 4, 0.7
CPU = torch.device("cpu")


class Owner:
    """An owner that is never asked anything but to allocate."""

    def allocate(self, layer, batch, heads, device):
        pass


def storage(rows: int) -> TreeKVLayer:
    layer = TreeKVLayer(None)
    layer.owner = Owner()
    layer.lazy_initialization(torch.empty(rows, HEADS, 1, DIM), torch.empty(rows, HEADS, 1, DIM))
    return layer


def new_tokens(q: int, rows: int = 1, seed: int = 0) -> NewTokens:
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(rows, GROUP * HEADS, q, DIM, generator=generator)
    key, value = (torch.randn(rows, HEADS, q, DIM, generator=generator) for _ in range(2))
    return NewTokens(query, key, value, Scoring(SCALING), TokenPositions(None, slice(0, rows), 0, [0] * rows, CPU))


def expected_attention(query, keys, values, visible):
    """Head by head and query by query: output [query_heads, q, dim] and weights [kv_heads, group, q, n]."""
    output = torch.empty(query.shape[0], query.shape[1], DIM)
    weights = torch.zeros(HEADS, GROUP, query.shape[1], keys.shape[1])
    for h in range(query.shape[0]):
        for t in range(query.shape[1]):
            seen = visible[t]
            w = (keys[h // GROUP][seen] @ query[h, t] * SCALING).softmax(0)
            weights[h // GROUP, h % GROUP, t, seen] = w
            output[h, t] = w @ values[h // GROUP][seen]
    return output, weights


@pytest.mark.parametrize("times_norm", [False, True])
@pytest.mark.parametrize("accumulates", [False, True])
def test_a_block_attends_to_the_cache_and_causally_to_itself(accumulates, times_norm):
    config = TreeKVConfig(policy="h2o", cache_size=6, recent_size=2, positions="original")
    ledger, layer, row = Ledger(config, 1, HEADS), storage(1), slice(0, 1)
    keys = values = torch.empty(HEADS, 0, DIM)
    for step, q in enumerate((6, 3)):
        new = new_tokens(q, seed=step)
        plan = ledger.plan_slots(row, q)
        before = keys.shape[1]
        keys, values = torch.cat([keys, new.key[0]], 1), torch.cat([values, new.value[0]], 1)
        visible = [torch.arange(before + t + 1) for t in range(q)]
        output, observed = attend_block(layer, row, new, plan, Observation(accumulates, times_norm), ledger.slots)
        expected, weights = expected_attention(new.query[0], keys, values, visible)
        assert torch.allclose(output[0], expected, atol=1e-6)
        seen = weights.sum((1, 2)) if accumulates else weights[:, :, -1].sum(1)
        if times_norm:
            seen = seen * values.norm(dim=-1)
        by_slot = observed[0].gather(1, ledger.order[0][:, : before + q])
        assert torch.allclose(by_slot, seen, atol=1e-6)
        ledger.commit() if step else ledger.count(row, q)  # nothing is evicted before the comparison


def test_with_a_delay_a_block_is_observed_query_by_query():
    ledger, layer, row = Ledger(TreeKVConfig(cache_size=9, recent_size=2), 1, HEADS), storage(1), slice(0, 1)
    for q in (3, 1):
        new, plan = new_tokens(q), ledger.plan_slots(row, q)
        _, summed = attend_block(layer, row, new, plan, Observation(True, False), ledger.slots)
        _, each = attend_block(layer, row, new, plan, Observation(True, False, delay=2, by_query=True), ledger.slots)
        assert each.shape == ((1, HEADS, 3, 3) if q == 3 else summed.shape)
        assert torch.allclose(each.sum(2) if q == 3 else each, summed)


def test_without_observation_nothing_is_returned():
    ledger, layer, row = Ledger(TreeKVConfig(policy="streaming", cache_size=8), 1, HEADS), storage(1), slice(0, 1)
    new = new_tokens(1)
    output, observed = attend_block(layer, row, new, ledger.plan_slots(row, 1), None, ledger.slots)
    assert observed is None and torch.allclose(output[0].view(HEADS, GROUP, DIM), new.value[0].expand(-1, GROUP, -1))


def test_appending_to_rows_of_different_lengths():
    layer = storage(2)
    layer.reserve(4)
    filled = new_tokens(3, rows=2, seed=5)
    layer.keys[:, :, :3], layer.values[:, :, :3] = filled.key, filled.value
    new = new_tokens(1, rows=2, seed=6)
    output = attend_all(layer, slice(0, 2), new, [3, 1], 4)
    for row, held in enumerate((3, 1)):
        keys = torch.cat([filled.key[row, :, :held], new.key[row]], 1)
        values = torch.cat([filled.value[row, :, :held], new.value[row]], 1)
        expected, _ = expected_attention(new.query[row], keys, values, [torch.arange(held + 1)])
        assert torch.allclose(output[row], expected, atol=1e-6)


def test_a_prompt_is_attended_to_scored_and_stored():
    new, layer = new_tokens(7), storage(1)
    visible = [torch.arange(t + 1) for t in range(7)]
    expected, weights = expected_attention(new.query[0], new.key[0], new.value[0], visible)
    assert torch.allclose(attend_prompt(new)[0], expected, atol=1e-6)
    sums, counts = prompt_scores(new, 3, Observation(True, False))
    assert torch.allclose(sums[0], weights.mean(1)[:, -3:].sum(1), atol=1e-6)
    assert counts[0, 0].tolist() == [3, 3, 3, 3, 3, 2, 1]
    weighed, _ = prompt_scores(new, 3, Observation(True, True))
    assert torch.allclose(weighed, sums * value_norms(new.value))
    kept = torch.tensor([[[0, 3, 6], [1, 2, 6]]])
    store_prompt(layer, slice(0, 1), new, kept, 5)
    assert layer.slots == 5 and torch.equal(layer.keys[0, 1, :3], new.key[0, 1, [1, 2, 6]])


def test_a_part_of_the_new_tokens_has_their_positions():
    part = new_tokens(6).part(2, 5)
    assert part.key.shape[2] == 3 and part.positions.true(3).tolist() == [[2, 3, 4]]
