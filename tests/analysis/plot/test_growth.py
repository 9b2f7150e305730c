"""The grid has the growth of each head."""

from __future__ import annotations

import numpy as np
import pytest

import analysis
from analysis import plot
from treekv import TreeKVError


def test_the_grid_draws_each_head(growing):
    growth = analysis.band_growth(growing).sel(band="D2").values
    figure = plot.growth_grid(growing, band="D2")
    grid, markers = figure.data
    np.testing.assert_allclose(10 ** np.asarray(grid.z, dtype=float), growth, rtol=1e-5)
    assert grid.zmin == -grid.zmax  # the middle of the scale is no growth
    assert "most grows layer 1, head 2" in figure.layout.meta["alt"]
    # Numbers stand in the hover text alone, of the markers that a click selects.
    assert grid.text is None
    at = [list(pair) for pair in markers.customdata].index([1, 2])
    assert (markers.x[at], markers.y[at], markers.text[at]) == (2, 1, f"{growth[1, 2]:.3g}")
    assert "band D1" in plot.growth_grid(growing).layout.meta["alt"]
    with pytest.raises(TreeKVError, match="there is no band 'D7'; choose one of A4, D4, D3, D2, D1"):
        plot.growth_grid(growing, band="D7")


def test_silent_heads_leave_a_gap(growing):
    growing["amplitude"].loc[{"layer": 0, "head": 1}] = 0
    grid = plot.growth_grid(growing, band="D1").data[0]
    assert np.isnan(grid.z[0][1]) and np.isfinite(grid.z[1]).all()
    growing["amplitude"][:] = 0
    assert "Median unknown" in plot.growth_grid(growing, band="D1").layout.meta["alt"]


def test_one_head_beyond_all_others_does_not_take_their_colours(growing):
    growing["amplitude"].loc[{"layer": 0, "head": 0}] *= 1.0 + 1e6 * (growing["position"] > 200)
    figure = plot.growth_grid(growing, band="D1")
    seen = np.abs(np.log10(analysis.band_growth(growing).sel(band="D1").values))
    assert figure.data[0].zmax == pytest.approx(np.quantile(seen, 0.95)) and figure.data[0].zmax < seen.max()
    assert "beyond the colours" in figure.layout.title.subtitle.text
