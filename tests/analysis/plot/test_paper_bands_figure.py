"""The paper's figure 2: its lines are the means of the data, and its margins are covered."""

import numpy as np
import pytest
import xarray as xr

from analysis import plot
from analysis.wavelets.haar import band_levels, band_names


@pytest.fixture
def bands():
    """512 positions, 20 samples: D1 rises from 2 to 5, D2 from 2 to 4; sinks and recent tokens are far above."""
    position = np.arange(512)
    rise = np.clip((position - 290) / 222, 0, 1)
    amplitude = np.array([[9], [1], [1], [1], [2], [2]]) + np.array([[0], [1], [1], [1], [2], [3]]) * rise
    amplitude[:, :4] *= 50
    amplitude[:, 480:] *= 20
    values = (1e-4 * amplitude).astype(np.float32)
    return xr.Dataset(
        {
            "amplitude": (("band", "position"), values),
            "amplitude_low": (("band", "position"), values * 0.9),
            "amplitude_high": (("band", "position"), values * 1.2),
        },
        coords={"band": band_names(5), "level": ("band", np.array(band_levels(5))), "position": position},
        attrs={"model": "made <up>", "margin": 32, "samples": 20, "texts": 2},
    )


def without_breaks(values):
    return np.asarray(values)[~np.isnan(values)]


def test_every_detail_band_is_a_line_of_means_of_four(bands):
    figure = plot.paper_bands(bands)
    lines = [trace for trace in figure.data if trace.mode == "lines"]
    assert [line.name for line in lines] == [
        "D1: adjacent tokens", *(f"D{level}: adjacent {2 ** (level - 1)}-token averages" for level in (2, 3, 4, 5)),
    ]  # fmt: skip
    for line, band in zip(lines, ("D1", "D2", "D3", "D4", "D5")):
        expected = bands["amplitude"].sel(band=band).values.reshape(128, 4).mean(1)
        # Each line breaks at the margins.
        assert np.flatnonzero(np.isnan(line.x)).tolist() == np.flatnonzero(np.isnan(line.y)).tolist() == [8, 121]
        np.testing.assert_allclose(without_breaks(line.y), expected, rtol=1e-6)
        np.testing.assert_allclose(without_breaks(line.x), np.arange(128) * 4 + 1.5)
    shades = [trace for trace in figure.data if trace.fill == "toself"]
    assert len(shades) == 5
    np.testing.assert_allclose(shades[0].y[:128], 1.2 * without_breaks(lines[0].y), rtol=1e-6)
    np.testing.assert_allclose(shades[0].y[128:][::-1], 0.9 * without_breaks(lines[0].y), rtol=1e-6)


def test_the_margins_are_grey_and_the_axis_fits_the_middle(bands):
    figure = plot.paper_bands(bands)
    assert [(shape.x0, shape.x1) for shape in figure.layout.shapes] == [(-0.5, 31.5), (479.5, 511.5)]
    low, high = figure.layout.yaxis.range
    middle = bands.sel(band=["D1"], position=slice(32, 479))["amplitude_high"].max()
    assert low == 0 and middle < high < 1.2 * middle


def test_the_alternative_has_the_means_of_both_ends_of_the_middle(bands):
    alt = plot.paper_bands(bands).layout.meta["alt"]
    end = bands["amplitude"].sel(band="D1", position=slice(416, 479)).mean().item()
    assert "positions 32 to 95 and at 416 to 479, 20 windows of 2 texts: D1 0.0002 and" in alt
    assert f"D1 0.0002 and {end:.3g}, {end / 2e-4:.2f} times; D2" in alt


def test_one_sample_has_no_interval_to_shade(bands):
    alone = bands.assign(amplitude_low=bands["amplitude"] * np.nan, amplitude_high=bands["amplitude"] * np.nan)
    figure = plot.paper_bands(alone.assign_attrs(samples=1, texts=1))
    assert [trace.mode for trace in figure.data] == ["lines"] * 5
    assert "1 window of 1 text" in figure.layout.title.subtitle.text
    assert "shaded" not in figure.layout.title.subtitle.text
    assert "&lt;up&gt;" in figure.layout.title.subtitle.text
    assert np.isfinite(figure.layout.yaxis.range).all()
