"""Heads in a few sizes: the cut with the least damage, by trying every one, and the exact total."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import analysis
from analysis.recommendation.classes import _best_cuts
from treekv import TreeKVError


def table(values: np.ndarray) -> xr.DataArray:
    layers, heads = values.shape
    return xr.DataArray(
        values, dims=("layer", "head"), coords={"layer": np.arange(layers), "head": np.arange(heads)}
    ).assign_coords(need=(("layer", "head"), values.astype(float)))


@settings(max_examples=40)
@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=8), st.integers(1, 4))
def test_the_cut_is_the_best_of_all(energies: list[float], count: int) -> None:
    ascending = np.sort(energies)
    count = min(count, len(ascending))
    best = min(
        sum(
            np.sqrt(ascending[first:last].sum() * (last - first))
            for first, last in itertools.pairwise((0, *inner, len(ascending)))
        )
        for inner in itertools.combinations(range(1, len(ascending)), count - 1)
    )
    cuts = _best_cuts(ascending, count)
    assert cuts[0] == 0 and cuts[-1] == len(ascending) and len(cuts) == count + 1
    found = sum(np.sqrt(ascending[first:last].sum() * (last - first)) for first, last in itertools.pairwise(cuts))
    assert found == pytest.approx(best)


@settings(max_examples=60)
@given(st.integers(1, 7), st.integers(1, 4), st.integers(1, 5), st.sampled_from((1, 4, 8)), st.integers(0, 10**6))
def test_the_total_stays_and_order_too(layers: int, heads: int, count: int, unit: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    mean = unit * int(rng.integers(8, 40))
    cells = layers * heads
    # Random budgets of the exact mean: tokens thrown into heads by chance.
    share = rng.dirichlet(np.full(cells, 2.0))
    values = 1 + rng.multinomial(cells * (mean - 1), share).reshape(layers, heads)
    found = analysis.budget_classes(table(values), count, unit)
    assert found.values.sum() == cells * mean
    assert len(np.unique(found.values)) <= count
    assert (found.values % unit == 0).all() and (found.values > 0).all()
    # A head with more than another never gets less.
    order = np.argsort(values, axis=None, kind="stable")
    assert (np.diff(found.values.ravel()[order]) >= 0).all()
    np.testing.assert_array_equal(found["need"].values, values)


def test_two_kinds_of_heads_are_told_apart() -> None:
    values = np.array([[40, 200], [40, 200], [40, 248]])
    found = analysis.budget_classes(table(values), 2, 8)
    assert found.values[:, 0].tolist() == [40, 40, 40] and len(set(found.values[:, 1].tolist())) == 1
    assert found.attrs["classes"] == "40 tokens for 3 heads, 216 for 3"


def test_bad_classes_are_one_sentence() -> None:
    values = np.array([[10, 12]])
    for count in (0, 7):
        with pytest.raises(TreeKVError, match=f"1 to 6 sizes, in a unit of at least 1, got {count} and 1"):
            analysis.budget_classes(table(values), count)
    with pytest.raises(TreeKVError, match="22 tokens for 2 heads are no multiple of 4 a head"):
        analysis.budget_classes(table(values), 2, 4)
