"""The picture of the sinks shows the numbers of the spectrum."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import analysis
from analysis import plot
from tests import tiny
from treekv import TreeKVError


@pytest.fixture(scope="module")
def spectrum() -> xr.Dataset:
    model = tiny.llama()
    return analysis.spectrum(analysis.capture(model, None, tiny.tokens(120)[0], queries=4), level=3)


def test_bars_are_the_sinks_and_the_line_is_the_strongest_band(spectrum: xr.Dataset) -> None:
    figure = plot.sinks(spectrum, layer=1, head=2)
    one = spectrum.sel(layer=1, head=2)
    np.testing.assert_allclose(figure.data[0].x, one["sink_amplitude"].values, rtol=1e-6)
    strongest = one["amplitude"].mean("position").max().item()
    assert figure.layout.shapes[0].x0 == pytest.approx(strongest, rel=1e-5)
    assert "amplitude of the first 4 tokens" in figure.layout.meta["alt"]
    every = plot.sinks(spectrum).data[0].x
    np.testing.assert_allclose(every, spectrum["sink_amplitude"].mean(("layer", "head")).values, rtol=1e-5)


def test_no_sinks_and_no_such_layer(spectrum: xr.Dataset) -> None:
    with pytest.raises(TreeKVError, match="has no sinks"):
        plot.sinks(spectrum.isel(sink=[]))
    with pytest.raises(TreeKVError, match="layer 7"):
        plot.sinks(spectrum, layer=7)
