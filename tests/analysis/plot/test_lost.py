"""Losses are drawn by layer, with their spread."""

from __future__ import annotations

import numpy as np
import pytest

import analysis
from analysis import plot
from treekv import TreeKVError


@pytest.mark.parametrize("name", ["mass", "error"])
def test_what_is_lost_layer_by_layer(captured, marked_up, name):
    lost = analysis.output_loss(captured, marked_up, queries=range(200, 300, 10))
    draw = plot.mass_retained if name == "mass" else plot.output_error
    figure = draw(lost)
    assert [line.name for line in figure.data] == ["tree", "&lt;b&gt;window&lt;/b&gt;"]
    others = [dim for dim in lost[name].dims if dim not in ("policy", "layer")]
    for line, policy in zip(figure.data, marked_up["policy"].values):
        rows = 100 * lost[name].sel(policy=policy).astype(float)
        assert list(line.x) == [0, 1]
        np.testing.assert_allclose(line.y, rows.mean(others))
        for index in (0, 1):
            flat = np.sort(rows.isel(layer=index).values.ravel())
            np.testing.assert_allclose(line.customdata[index], np.percentile(flat, [10, 90]))
    assert "tree %.1f %%" % (100 * float(lost[name].sel(policy="tree").mean())) in figure.layout.meta["alt"]
    assert "10 queries, positions 200 to 290" in figure.layout.title.subtitle.text
    assert len(draw(lost, policy="tree").data) == 1
    with pytest.raises(TreeKVError, match="there is no policy 'h2o'; choose one of tree, <b>window</b>"):
        draw(lost, policy="h2o")
