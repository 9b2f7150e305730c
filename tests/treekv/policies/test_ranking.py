"""Choices among scores against sorting on lists, ties and all."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.reference.policies import splitmix as reference_splitmix
from treekv.policies.ranking import highest, lowest, splitmix, with_protected, without

HEADS = 2

NUMBERS = st.one_of(st.floats(width=32, allow_nan=False), st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5]))


@given(st.one_of(st.lists(NUMBERS, min_size=1), st.lists(st.integers(0, 2**31 - 1), min_size=1)), st.data())
def test_the_lowest_are_the_older_of_equals_and_the_highest_the_newer(numbers, data):
    count = data.draw(st.integers(1, len(numbers)))
    values = torch.tensor([[numbers, numbers[::-1]]])
    ranks = range(len(numbers))
    for head, own in enumerate((numbers, numbers[::-1])):
        expected = sorted(sorted(ranks, key=lambda rank: (own[rank], rank))[:count])
        assert lowest(values, count, 7)[0, head].tolist() == [rank + 7 for rank in expected]
        expected = sorted(sorted(ranks, key=lambda rank: (own[rank], rank))[len(own) - count :])
        assert highest(values, count)[0, head].tolist() == expected


@pytest.mark.parametrize("m", [1, 2, 5, 9])
def test_without_removes_just_these_ranks(m):
    generator = torch.Generator().manual_seed(m)
    values = torch.rand(3, 2, 10, generator=generator)
    ranks = torch.stack([torch.randperm(10, generator=generator)[:m].sort().values for _ in range(6)]).view(3, 2, m)
    result = without(values, ranks)
    for row in range(3):
        for head in range(2):
            gone = set(ranks[row, head].tolist())
            expected = [values[row, head, i].item() for i in range(10) if i not in gone]
            assert result[row, head].tolist() == expected


def test_protected_positions_surround_the_chosen_ones():
    chosen = torch.tensor([[[3, 5], [4, 6]]])
    assert with_protected(chosen, 2, 8, 10).tolist() == [[[0, 1, 3, 5, 8, 9], [0, 1, 4, 6, 8, 9]]]


@pytest.mark.parametrize("seed", [0, 5, 2**63 - 1])
def test_draws_are_splitmix64(seed):
    steps = torch.tensor([7, 2**40])
    drawn = splitmix(seed, (0, 29), 3, steps, 12, "cpu")
    for row, layer in enumerate((0, 29)):
        for head in range(3):
            assert drawn[row, head].tolist() == [reference_splitmix(seed, layer, head, 12, s) for s in steps.tolist()]
