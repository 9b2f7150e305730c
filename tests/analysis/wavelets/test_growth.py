"""Growth of every head, as numbers and as a grid."""

from __future__ import annotations

import numpy as np
import pytest

import analysis


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
    trends = analysis.trends(
        spectrum.assign_coords(support=("band", [16, 16, 8, 4, 2])), resamples=99, protocol="to the last token"
    )
    np.testing.assert_allclose(growth, trends["growth_by_head"], rtol=1e-6)
