"""The compiled pieces against plain numpy; whole contests are compared in tests/treekv/policies/test_contest.py."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.retention import kernels
from tests.reference.policies import splitmix


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("with_norms", [False, True])
@pytest.mark.parametrize("counted", [4, 3, 0])
@pytest.mark.parametrize("spread", [1.0, 200.0])  # the second leaves nothing but the largest weight of all
def test_observed_weights_are_a_softmax_over_the_kept_tokens(spread, counted, with_norms, exact):
    rng = np.random.default_rng(0)
    logits = (rng.standard_normal((3, 12)) * spread).astype(np.float32)
    weights = np.exp(logits - logits.max(1, keepdims=True))
    columns, positions = np.array([1, 4, 7, 10], np.uint32), np.array([2, 3, 5, 6], np.int32)
    norms = rng.random(8).astype(np.float32) if with_norms else np.zeros(0, np.float32)
    sums = rng.random(4).astype(np.float32)
    chosen = logits[:, columns].astype(np.float64)
    share = np.exp(chosen - chosen.max(1, keepdims=True))
    added = (share / share.sum(1, keepdims=True)).mean(0) * (norms[positions] if with_norms else 1)
    expected = sums + added * (np.arange(4) < counted)
    kernels.observe(weights, logits, columns, norms, np.zeros(4, np.float32), positions, sums, counted, exact)
    assert np.allclose(sums, expected, atol=1e-6)


def test_removing_moves_later_values_down():
    values = np.arange(6)
    kernels.remove_at(values, 2, 5)
    assert values[:4].tolist() == [0, 1, 3, 4]


@pytest.mark.parametrize("averages", [False, True])
def test_the_lowest_loses_and_the_highest_survives(averages):
    rng = np.random.default_rng(1)
    for _ in range(50):
        sums = (rng.integers(0, 4, (2, 8)) / 2).astype(np.float32)
        positions = np.tile(np.arange(8, dtype=np.int32), (2, 1))
        counts = np.float32(10) - np.maximum(np.arange(8), 3) if averages else np.ones(8)
        scores = (sums / counts.astype(np.float32)).sum(0)[2:7]
        judged = averages, sums, positions, 2, 7, 3, 10, 0
        loser, survivor = kernels.compare(*judged)
        assert kernels.lowest(*judged) == loser
        assert loser == 2 + int(np.argmin(scores))
        others = [rank for rank in range(2, 7) if rank != loser]
        assert survivor == max(others, key=lambda rank: (scores[rank - 2], rank))


def test_a_token_that_no_query_has_counted_for_is_not_lost():
    sums, positions = np.array([[3, 2, 0, 0]], np.float32), np.array([[0, 4, 7, 9]], np.int32)
    for right, loser in ((2, 1), (3, 1), (4, 1)):  # counts 7, 3, 0, 0 of the queries up to 9 that come 3 later
        assert kernels.compare(True, sums * [[1, 0.1, 1, 1]], positions, 0, right, 0, 10, 3)[0] == loser
    assert kernels.compare(True, sums, positions, 2, 4, 0, 10, 3) == (2, 3)


@pytest.mark.parametrize("parts", [(0, 0, 0, 1, 0), (2**63 - 1, 29, 8, 512, 10**6)])
def test_draws_are_splitmix64(parts):
    assert kernels.draw(*parts) == splitmix(*parts)
