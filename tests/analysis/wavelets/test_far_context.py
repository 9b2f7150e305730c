"""Need against its definition, pair by pair, and the budgets that follow from it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import xarray as xr

import analysis
from tests.analysis.wavelets.sensitive import capture_with_gradients
from tests.reference import sensitivity as reference
from treekv import TreeKVError


@pytest.mark.parametrize(("kv_heads", "every", "distance"), [(2, 64, 64), (4, 7, 20), (1, 10, 1)])
def test_equals_its_definition(kv_heads, every, distance):
    captured = capture_with_gradients(kv_heads=kv_heads)
    seen = []
    found = analysis.need(captured, every=every, distance=distance, progress=lambda *call: seen.append(call))
    assert (found.dims, found.shape, seen) == (("layer", "head"), (2, kv_heads), [(1, 2), (2, 2)])
    for layer in (0, 1):
        for head in range(kv_heads):
            expected = reference.need(captured, layer, head, every, distance)
            assert expected > 0
            assert found.sel(layer=layer, head=head).item() == pytest.approx(expected, rel=1e-3)


def test_half_precision():
    captured = capture_with_gradients()
    half = dataclasses.replace(captured, **{n: [x.half() for x in getattr(captured, n)] for n in ("q", "k", "v")})
    np.testing.assert_allclose(analysis.need(half), analysis.need(captured), rtol=0.1)


def test_the_defaults_are_64_tokens(captured):
    found = analysis.need(capture_with_gradients())
    xr.testing.assert_identical(found, analysis.need(capture_with_gradients(), every=64, distance=64))
    assert (found.attrs["queries"], found.attrs["units"]) == (1, "nats squared")


def test_what_has_no_need_is_refused(captured):
    with pytest.raises(TreeKVError, match="no gradients of the loss"):
        analysis.need(captured)
    with pytest.raises(TreeKVError, match="takes at least 130 tokens; the text has 100"):
        analysis.need(capture_with_gradients(100))
    assert analysis.need(capture_with_gradients(130)).attrs["queries"] == 1
    with pytest.raises(TreeKVError, match="must be at least 1, got 0 and 64"):
        analysis.need(capture_with_gradients(), every=0)


# ---------------------------------------------------------------------- budgets


def needs(values):
    values = np.asarray(values, dtype=float)
    coords = {"layer": np.arange(values.shape[0]), "head": np.arange(values.shape[1])}
    return xr.DataArray(values, dims=("layer", "head"), coords=coords)


def slow_budgets(values, cache_size, least, most):
    """m by bisection, without rounding."""
    low, high = 0.0, 1e12
    for _ in range(300):
        m = (low + high) / 2
        found = np.minimum(least + m * np.sqrt(values), most)
        low, high = (m, high) if found.mean() < cache_size else (low, m)
    return found


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("spread", [0.5, 4.0])
def test_budgets_follow_the_square_root_and_add_up(seed, spread):
    rng = np.random.default_rng(seed)
    values = rng.lognormal(sigma=spread, size=(7, 3))
    found = analysis.need_budgets(needs(values), 128)
    assert found.dtype == np.int64 and found.sum() == 128 * 21
    assert found.min() >= 24 and found.max() <= 640
    np.testing.assert_allclose(found, slow_budgets(values, 128, 24, 640), atol=1.001)


def test_bounds_of_budgets():
    found = analysis.need_budgets(needs([[1.0, 0.0], [0.0, 0.0]]), 100, least=10, most=200)
    assert found.values[0, 0] == 200, "what one head cannot take is shared by the others"
    assert sorted(found.values.ravel().tolist()) == [66, 67, 67, 200]
    assert analysis.need_budgets(needs(np.zeros((2, 3))), 50).values.tolist() == [[50] * 3] * 2
    assert analysis.need_budgets(needs([[1.0, 9.0]]), 64, least=64, most=64).values.tolist() == [[64, 64]]
    assert analysis.need_budgets(needs([[1.0, 9.0]]), 256).attrs["least"] == 48
    for arguments in (dict(least=101), dict(most=99), dict(least=0)):
        with pytest.raises(TreeKVError, match="cannot have the mean 100; give least"):
            analysis.need_budgets(needs([[1.0, 2.0]]), 100, **arguments)
    for wrong in (-1.0, np.nan):
        with pytest.raises(TreeKVError, match="negative or not a number"):
            analysis.need_budgets(needs([[1.0, wrong]]), 100)
