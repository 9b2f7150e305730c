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


def test_names_stand_in_lines_and_upright_where_they_are_many(record):
    names = ["A StreamingLLM 1,024", "B StreamingLLM  1,024", "C", "D"]
    both = record.assign_coords(policy=names[:2])
    few = plot.agreement(analysis.agreement(both))
    assert list(few.data[0].x) == names[:2]  # spaces tell them apart, which lines do not
    assert few.layout.xaxis.ticktext == ("A<br>StreamingLLM<br>1,024", "B<br>StreamingLLM<br>1,024")
    assert few.layout.xaxis.tickangle == 0
    many = analysis.merge_retention(both, record.assign_coords(policy=names[2:]))
    assert plot.agreement(analysis.agreement(many)).layout.xaxis.tickangle == -90
