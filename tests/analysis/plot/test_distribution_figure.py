"""The paper's figure 1: the cells of each map are shares of heads, and its numbers stand above it."""

import numpy as np
import pytest
import xarray as xr

from analysis import plot

POLICIES = ["h2o", "tova", "tree"]


@pytest.fixture
def found():
    """512 positions, 2 layers, 4 KV heads; made-up numbers."""
    kept = np.random.default_rng(0).random((3, 2, 4, 512)) < np.array([0.1, 0.2, 0.4])[:, None, None, None]
    numbers = np.array([0.6, 0.5, 0.3])[:, None, None] + np.array([0, 0.02])[None, :, None] + np.zeros((3, 2, 4))
    dims = ("policy", "layer", "head")
    return xr.Dataset(
        {
            "kept": ((*dims, "position"), kept),
            "gini": (dims, numbers),
            "longest_gap": (dims, 100 * numbers),
            "ideal_gini": (dims, np.full((3, 2, 4), 0.31)),
        },
        coords={"policy": POLICIES, "layer": [3, 7], "head": range(4), "position": range(512)},
        attrs={"model": "made <up>", "tokens": 512, "cache_size": 128},
    )


def test_cells_are_shares_of_heads_pooled_to_256_positions(found):
    figure = plot.distribution_maps(found)
    assert len(figure.data) == 3
    for number, trace in enumerate(figure.data):
        expected = found["kept"].values[number].mean(1).reshape(2, 256, 2).mean(-1)
        np.testing.assert_array_equal(trace.z, np.rint(100 * expected))
        assert list(trace.y) == [3, 7]
        np.testing.assert_allclose(trace.x, np.arange(256) * 2 + 0.5)


def test_the_numbers_stand_above_each_map(found):
    figure = plot.distribution_maps(found)
    assert [above.text for above in figure.layout.annotations] == [
        "H2O<br>bias 0.61<br>longest gap 61",
        "TOVA<br>bias 0.51<br>longest gap 51",
        "TreeKV<br>bias 0.31<br>longest gap 31",
    ]
    subtitle = figure.layout.title.subtitle.text
    assert "0.31 for an ideal tree" in subtitle and "made &lt;up&gt;" in subtitle
    quarters = ", ".join(f"{100 * part.mean():.0f} %" for part in np.split(found["kept"].values[0], 4, axis=-1))
    assert f"H2O bias 0.61 and longest gap 61, quarters kept to {quarters}; TOVA" in figure.layout.meta["alt"]


def test_a_short_text_is_not_pooled(found):
    figure = plot.distribution_maps(found.isel(position=slice(0, 100)).assign_attrs(tokens=100))
    assert len(figure.data[0].x) == 100
    assert figure.layout.xaxis2.title.text == "position (tokens)"
