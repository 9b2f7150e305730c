"""Scores by rank, and the order after an eviction, against lists."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from treekv.cache.ranked_scores import RankedScores, late_sum, observations

HEADS = 2


def ranked(rows: int, held: int, slots: int, first_query=0, seen=20) -> tuple[RankedScores, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(held)
    order = torch.stack([torch.randperm(slots, generator=generator) for _ in range(rows * HEADS)]).view(rows, HEADS, -1)
    position = torch.randint(0, 20, (rows, HEADS, slots), generator=generator)
    sums = torch.rand(rows, HEADS, slots, generator=generator)
    made = RankedScores(
        order=order, position=position, sums=sums, held=held, capacity=held - 1, cursor=0, first_query=first_query,
        seen=seen, layer=0, traced=True,
    )  # fmt: skip
    return made, position, sums


@pytest.mark.parametrize("first_query", [0, 12, torch.tensor([3, 18]).view(2, 1, 1)], ids=str)
def test_averages_divide_by_the_queries_since_a_token_was_cached(first_query):
    scores, position, sums = ranked(2, 6, 8, first_query)
    ranks = torch.tensor([1, 4]).view(1, 1, 2)
    for asked, chosen in ((slice(2, 5), [2, 3, 4]), (ranks, [1, 4])):
        averages, totals = scores.average(asked), scores.total(asked)
        for row in range(2):
            since = first_query if isinstance(first_query, int) else first_query[row].item()
            for head in range(HEADS):
                for i, rank in enumerate(chosen):
                    slot = scores.order[row, head, rank]
                    count = 20 - max(position[row, head, slot].item(), since)
                    assert totals[row, head, i] == sums[row, head, slot]
                    assert averages[row, head, i] == sums[row, head, slot] / count


@given(st.integers(2, 9), st.data())
def test_evicted_slots_move_behind_the_others(held, data):
    scores, _, _ = ranked(1, held, held + 2)
    count = data.draw(st.integers(1, held - 1))
    ranks = torch.tensor(
        [[sorted(data.draw(st.sets(st.integers(0, held - 1), min_size=count, max_size=count))) for _ in range(HEADS)]]
    )
    before = scores.order.clone()
    scores.move_to_the_end(ranks, before.gather(2, ranks))
    for head in range(HEADS):
        evicted = [before[0, head, rank].item() for rank in ranks[0, head].tolist()]
        kept = [slot for slot in before[0, head].tolist() if slot not in evicted]
        assert scores.order[0, head].tolist() == kept + evicted


def test_observations_count_from_the_first_query():
    position = torch.tensor([[[0, 5, 9]]])
    assert observations(position, 0, 10).tolist() == [[[10, 5, 1]]]
    assert observations(position, 6, 10).tolist() == [[[4, 4, 1]]]
    assert observations(position, 0, 10, delay=2).tolist() == [[[8, 3, 0]]]
    assert observations(position, torch.tensor([[[6]]]), 10, delay=2).tolist() == [[[4, 3, 0]]]


def test_only_late_queries_are_summed():
    generator = torch.Generator().manual_seed(0)
    observed = torch.rand(2, HEADS, 3, 5, generator=generator)
    position = torch.randint(0, 12, (2, HEADS, 5), generator=generator)
    for delay in (1, 4):
        summed = late_sum(observed, position, 9, delay)
        for (row, head, token), where in zip(
            torch.cartesian_prod(*map(torch.arange, (2, HEADS, 5))), position.flatten()
        ):
            counted = [observed[row, head, i, token] for i in range(3) if 9 + i - where >= delay]
            assert torch.isclose(summed[row, head, token], torch.tensor(counted).sum())
        starts = torch.tensor([9, 3]).view(2, 1, 1)
        each = late_sum(observed[:, :, 0], position, starts, delay)
        assert torch.equal(each, observed[:, :, 0] * (starts - position >= delay))


def test_a_token_that_no_query_has_counted_for_is_protected():
    scores, position, sums = ranked(1, 3, 3, seen=10)
    position[:], sums[:] = 0, 1.0
    scores.order[:] = torch.arange(3)
    position[..., 1], sums[..., 1] = 9, 0.0
    scores._delay = 2
    assert scores.average(slice(0, 3))[0, 0].tolist() == [0.125, float("inf"), 0.125]
