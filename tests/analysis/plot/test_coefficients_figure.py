"""The heatmap has the largest coefficients of each run of positions."""

from __future__ import annotations

import numpy as np

from analysis import plot


def test_coefficients_keep_the_largest_of_each_run(made_spectrum):
    spectrum = made_spectrum(np.random.default_rng(1).lognormal(size=(4, 1500)))
    figure = plot.coefficients(spectrum, layer=0)
    (heatmap,) = figure.data
    mean = spectrum["coefficient"].sel(layer=0).mean("head").values
    assert heatmap.z.shape == heatmap.customdata.shape == (4, 500)
    assert list(heatmap.y) == ["A3", "D3", "D2", "D1"]
    np.testing.assert_allclose(heatmap.customdata, mean.reshape(4, 500, 3).max(-1), rtol=1e-5)
    np.testing.assert_allclose(heatmap.z, np.log10(heatmap.customdata), rtol=1e-4, atol=1e-5)
    assert heatmap.x[0] == 5


def test_silence_can_be_drawn(made_spectrum):
    silent = made_spectrum(np.zeros((4, 100)))
    assert np.isnan(plot.coefficients(silent).data[0].z).all()
    assert np.isnan(plot.spectrum(silent).data[0].y).all()
