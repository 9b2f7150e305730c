"""Growth of every head, as numbers and as a grid."""

from __future__ import annotations

import numpy as np
import pytest

import analysis
from analysis import plot
from treekv import TreeKVError


@pytest.fixture
def spectrum(made_spectrum):
    found = made_spectrum(np.random.default_rng(2).lognormal(size=(5, 403)))
    found["amplitude"].loc[{"layer": 1, "head": 2, "band": "D2", "position": slice(343, 406)}] *= 50
    return found


def test_growth_divides_the_last_64_positions_by_the_first_quarter(spectrum):
    growth = analysis.band_growth(spectrum)
    assert growth.dims == ("layer", "head", "band")
    assert (growth.attrs["first_positions"], growth.attrs["last_positions"]) == (100, 64)
    for layer, head, band in ((0, 0, "D1"), (1, 2, "D2"), (0, 1, "A4")):
        row = spectrum["amplitude"].sel(layer=layer, head=head, band=band).values.tolist()
        expected = (sum(row[-64:]) / 64) / (sum(row[:100]) / 100)
        assert float(growth.sel(layer=layer, head=head, band=band)) == pytest.approx(expected, rel=1e-6)
    trends = analysis.trends(spectrum.assign_coords(support=("band", [16, 16, 8, 4, 2])), resamples=99)
    np.testing.assert_allclose(growth, trends["growth_by_head"], rtol=1e-6)


def test_the_grid_draws_each_head(spectrum):
    growth = analysis.band_growth(spectrum).sel(band="D2").values
    figure = plot.growth_grid(spectrum, band="D2")
    (grid,) = figure.data
    np.testing.assert_allclose(10 ** np.asarray(grid.z, dtype=float), growth, rtol=1e-5)
    assert grid.zmin == -grid.zmax  # the middle of the scale is no growth
    assert "most grows layer 1, head 2" in figure.layout.meta["alt"]
    assert grid.text[1][2] == f"{growth[1, 2]:.0f}"
    assert "band D1" in plot.growth_grid(spectrum).layout.meta["alt"]
    with pytest.raises(TreeKVError, match="there is no band 'D7'; choose one of A4, D4, D3, D2, D1"):
        plot.growth_grid(spectrum, band="D7")


def test_silent_heads_leave_a_gap(spectrum):
    spectrum["amplitude"].loc[{"layer": 0, "head": 1}] = 0
    grid = plot.growth_grid(spectrum, band="D1").data[0]
    assert np.isnan(grid.z[0][1]) and np.isfinite(grid.z[1]).all()
    spectrum["amplitude"][:] = 0
    assert "Median unknown" in plot.growth_grid(spectrum, band="D1").layout.meta["alt"]


# ---------------------------------------------------------------------- trends


@pytest.fixture
def found(spectrum):
    return analysis.trends(spectrum.assign_coords(support=("band", [16, 16, 8, 4, 2])), resamples=99)


def test_trends_are_drawn_with_interval_and_null(found):
    figure = plot.trends(found)
    for column, name in enumerate(("growth", "slope", "rank_correlation")):
        axis = "x" if column == 0 else f"x{column + 1}"
        traces = [trace for trace in figure.data if trace.xaxis == axis]
        (null,) = (trace for trace in traces if trace.type == "bar")
        base = 1 if name == "growth" else 0
        np.testing.assert_allclose(np.asarray(null.x) + base, found[name + "_null"])
        drawn = {}
        for trace in traces:
            if trace.type != "bar":
                arms = zip(trace.error_x.arrayminus, trace.error_x.array)
                drawn |= {y: (x, x - a, x + b, trace.name) for y, x, (a, b) in zip(trace.y, trace.x, arms)}
        for i, band in enumerate(found["band"].values):
            low, high = found[name + "_low"].values[i], found[name + "_high"].values[i]
            np.testing.assert_allclose(drawn[band][:3], (found[name].values[i], low, high), rtol=1e-9)
            assert drawn[band][3] == f"claim (i) {found['claim_i'].values[i]}"
    assert f"claim (ii) {found.attrs['claim_ii']}" in figure.layout.title.subtitle.text
    assert f"D1 grows by {float(found['growth'][-1]):.1f} (" in figure.layout.meta["alt"]


def test_trends_of_one_query_have_no_whiskers(spectrum):
    one = spectrum.assign_coords(support=("band", [16, 16, 8, 4, 2])).isel(query=[0])
    figure = plot.trends(analysis.trends(one, resamples=99))
    assert all((np.asarray(trace.error_x.array) == 0).all() for trace in figure.data if trace.type == "scatter")


def test_spread_is_one_standard_deviation(run):
    alone = analysis.spectrum(run, level=3)
    figure = plot.spectrum(alone, layer=1, head=2, spread=True, start=200, stop=240)
    shade = next(trace for trace in figure.data if trace.fill == "toself" and trace.legendgroup == "D2")
    picked = alone.sel(layer=1, head=2, band="D2", position=slice(200, 239))
    mean, deviation = picked["amplitude"].values, picked["query_std"].values
    np.testing.assert_allclose(shade.y[:40], mean + deviation, rtol=1e-5)
    expected = np.where(deviation < mean, mean - deviation, mean / 10)[::-1]
    np.testing.assert_allclose(shade.y[40:], np.maximum(expected, mean.min() / 100), rtol=1e-5)
    assert "deviation over queries" in figure.layout.legend.title.text
    two = plot.spectrum(analysis.mean_spectrum([alone, alone * 3]), spread=True)
    assert "deviation over texts" in two.layout.legend.title.text
    assert not [trace for trace in plot.spectrum(alone).data if trace.fill]
