"""The picture has the budget of each head."""

from __future__ import annotations

import numpy as np
import xarray as xr

import analysis
from analysis import plot


def test_the_grid_has_the_budgets():
    values = np.random.default_rng(0).lognormal(sigma=2, size=(5, 3))
    needed = xr.DataArray(values, dims=("layer", "head"), coords={"layer": [1, 3, 5, 7, 9], "head": [0, 1, 2]})
    budgets = analysis.need_budgets(needed, 128)
    figure = plot.need_budgets(budgets)
    (grid,) = figure.data
    np.testing.assert_allclose(128 * 2.0 ** np.asarray(grid.z), budgets, rtol=1e-5)
    np.testing.assert_allclose(grid.customdata[..., 1], values)
    assert grid.zmin == -grid.zmax and list(grid.y) == [1, 3, 5, 7, 9]
    assert grid.text[2][1] == f"{budgets.values[2, 1]:,}"
    where = np.unravel_index(int(budgets.values.argmax()), (5, 3))
    assert (
        f"most {budgets.max().item()} in layer {[1, 3, 5, 7, 9][where[0]]}, head {where[1]}"
        in figure.layout.meta["alt"]
    )


def test_equal_budgets_can_be_drawn():
    needed = xr.DataArray(np.ones((2, 20)), dims=("layer", "head"), coords={"layer": [0, 1], "head": range(20)})
    (grid,) = plot.need_budgets(analysis.need_budgets(needed, 64)).data
    assert not np.asarray(grid.z).any() and grid.text is None
