"""The maps have the shares of each policy."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from analysis import plot
from treekv import TreeKVError


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    shape = ("policy", "band", "distance")
    return xr.Dataset(
        {"survival": (shape, rng.random((4, 3, 5))), "loss_survival": (shape, rng.random((4, 3, 5)))},
        coords={
            "policy": ["tree", "h2o", "<b>", "tova"],
            "band": ["A2", "D2", "D1"],
            "distance": [0, 8, 16, 32, 64],
            "distance_end": ("distance", [8, 16, 32, 64, 128]),
        },
    )


@pytest.mark.parametrize(("by", "name"), [(None, "loss_survival"), ("values", "survival")])
def test_one_map_a_policy(data, by, name):
    figure = plot.survival(data, by=by)
    assert len(figure.data) == 4
    for number, trace in enumerate(figure.data):
        np.testing.assert_allclose(trace.z, 100 * data[name].values[number], rtol=1e-5)
        assert list(trace.y) == ["A2", "D2", "D1"] and trace.x[1] == "8\u201315"
    assert figure.layout.coloraxis.cmax == 100
    far = 100 * data[name].values[0, 2, 2:].mean()
    assert f"tree D1 {far:.0f} %" in figure.layout.meta["alt"]
    assert "&lt;b&gt;" in [annotation.text for annotation in figure.layout.annotations]


def test_what_is_not_there_is_refused(data):
    assert len(plot.survival(data, policies=["tova"]).data) == 1
    with pytest.raises(TreeKVError, match="there is no policy 'snapkv'; choose of tree, h2o"):
        plot.survival(data, policies=["snapkv"])
    with pytest.raises(TreeKVError, match="there is no survival by 'loss'; choose one of values"):
        plot.survival(data[["survival"]], by="loss")
