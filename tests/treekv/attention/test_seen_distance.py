"""Compressed distances: the rule's own numbers, and none that rounding could change."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.reference.positions import seen_at
from treekv.attention.rotary import Rotary
from treekv.attention.seen_distance import FARTHEST, NEAR, compressed


@pytest.mark.parametrize(
    "distance, seen",
    [(-5, -5), (0, 0), (1, 1), (128, 128), (129, 130), (256, 305), (2_048, 838), (100_000, 1_833), (1_000_000, 2_423)],
)
def test_known_values(distance, seen):
    assert compressed(torch.tensor([distance])).item() == seen


def test_it_is_the_rule_at_every_distance_and_never_decreases():
    near = range(20_000)
    far = [*near, *range(10**6 - 500, 10**6 + 500), 10**7, 2**31 - 1, 2**31]
    seen = compressed(torch.tensor(far))
    assert seen.dtype == torch.long and seen.tolist() == [seen_at(distance) for distance in far]
    assert bool((seen.diff() >= 0).all()) and seen[-1] == FARTHEST


def test_no_distance_up_to_ten_million_is_near_a_tie():
    """So whatever way a device computes the logarithm, in float64 it rounds to the same number."""
    exact = NEAR * (1 + 2 * np.log(np.arange(NEAR, 10**7, dtype=np.float64) / NEAR))
    assert np.abs(exact % 1 - 0.5).min() > 1e-8  # of numbers up to 3,012, which have an error of 1e-12


def test_keys_a_million_tokens_back_are_rotated_as_exactly_as_near_ones():
    frequencies = 10_000.0 ** (-torch.arange(32) / 32)
    rotary = Rotary(frequencies, head_dim=64)
    keys = torch.randn(1, 1, 500, 64, generator=torch.Generator().manual_seed(0))
    true = torch.linspace(1, 1_000_000, 500).long()
    got = rotary.at_distance(keys, compressed(true)[None, None], FARTHEST + 1)
    numbers = torch.view_as_complex(keys.double().view(1, 1, 500, 32, 2))
    angle = torch.tensor([-seen_at(int(d)) for d in true], dtype=torch.double)[:, None] * frequencies.double()
    expected = torch.view_as_real(numbers * torch.polar(torch.ones_like(angle), angle)).flatten(-2)
    assert (got - expected).abs().max() < 1e-3  # a position of a million rounded to float32 is wrong by 0.03 radians
