"""Curves are simulated damages, and budgets from them are the best of all on a grid."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import xarray as xr

import analysis
from analysis.recommendation.curves import _lower_hull, damage_curves, least_damage
from tests import tiny
from treekv import TreeKVConfig, TreeKVError


@pytest.fixture(scope="module")
def sensitive():
    with torch.inference_mode(False):
        return analysis.capture(tiny.llama(), None, tiny.tokens(200, seed=3)[0], queries=4, sensitivity=True)


def curves(values: list[list[float]], sizes: list[int]) -> xr.DataArray:
    """Damages of heads in one layer [size, head]."""
    data = np.array(values)[:, None]
    coords = {"size": sizes, "layer": [0], "head": np.arange(data.shape[2])}
    return xr.DataArray(data, dims=("size", "layer", "head"), coords=coords)


def test_a_curve_is_the_damage_of_each_capacity(sensitive):
    config = TreeKVConfig(cache_size=64, prefill="stream", block_size=4, scope=4, recent_size="quarter")
    found = damage_curves(sensitive, config)
    assert found["size"].values.tolist() == [16, 20, 32, 48, 72, 104, 152]  # 224 and 320 hold the whole text
    own = config.replace(cache_size=72)
    retention = analysis.simulate(sensitive, {"it": own})
    wanted = analysis.output_loss(sensitive, retention)["damage"].sel(policy="it")
    np.testing.assert_allclose(found.sel(size=72).values, wanted.values, rtol=1e-5)


def test_budgets_are_the_best_on_a_grid():
    rng = np.random.default_rng(0)
    sizes = [8, 16, 24, 32, 40]
    # Convex curves, whose steps on the grid are those of the curve.
    steps = np.sort(rng.uniform(0.1, 3.0, (3, 4)), axis=1)
    damages = np.concatenate((np.zeros((3, 1)), steps.cumsum(1)), axis=1)[:, ::-1] + 0.5
    found = least_damage(curves(damages.T.tolist(), sizes), 24, unit=8)
    totals = {
        chosen: sum(damages[head, sizes.index(size)] for head, size in enumerate(chosen))
        for chosen in itertools.product(sizes, repeat=3)
        if sum(chosen) == 72
    }
    assert totals[tuple(found.values[0].tolist())] == pytest.approx(min(totals.values()))


def test_a_step_that_pays_only_with_the_next_one_is_taken():
    # The second head gains nothing by 16 tokens, and all by 24.
    found = least_damage(curves([[1.0, 9.0], [0.9, 9.0], [0.8, 0.1]], [8, 16, 24]), 16, unit=8)
    assert found.values.tolist() == [[8, 24]]


def test_the_hull_is_convex_and_below():
    rng = np.random.default_rng(1)
    for _ in range(20):
        values = rng.uniform(0, 1, 12)
        hull = _lower_hull(values)
        assert (hull <= values + 1e-12).all() and (np.diff(hull, 2) >= -1e-12).all()
        assert hull[0] == values[0] and hull[-1] == values[-1]


def test_bad_curves_are_one_sentence(sensitive):
    with pytest.raises(TreeKVError, match="a multiple of 8 from 8 to 24, got 20"):
        least_damage(curves([[1.0], [0.5]], [8, 24]), 20, unit=8)
    with pytest.raises(TreeKVError, match="need a text of more than 200 tokens; this one has 200"):
        damage_curves(sensitive, TreeKVConfig(cache_size=640, prefill="stream", block_size=4))
