"""The matrix has the Jaccard indices in per cent."""

from __future__ import annotations

import numpy as np
import pytest

import analysis
from analysis import plot
from treekv import TreeKVError


def test_agreement_is_drawn_in_per_cent(record):
    between = analysis.agreement(record)
    figure = plot.agreement(between)
    (heatmap,) = figure.data
    assert list(heatmap.x) == list(heatmap.y) == ["tree", "streaming"]
    expected = np.rint(100 * between.mean("layer").values)
    assert (np.asarray(heatmap.z) == expected).all()
    assert f"{expected[0, 1]:.0f} to {expected[0, 1]:.0f} %" in figure.layout.meta["alt"]
    one = plot.agreement(analysis.agreement(record, "head"), policy="tree", layer=1)
    expected = analysis.agreement(record, "head").sel(policy="tree", layer=1).values
    assert (np.asarray(one.data[0].z) == np.rint(100 * expected)).all()
    assert "policy tree, layer 1" in one.layout.title.subtitle.text
    with pytest.raises(TreeKVError, match="there is no layer 9; choose one of 0, 1"):
        plot.agreement(between, layer=9)
    with pytest.raises(TreeKVError, match="policy cannot be selected when policies are compared"):
        plot.agreement(between, policy="tree")
