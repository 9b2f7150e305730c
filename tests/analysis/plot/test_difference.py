"""The difference of two records is drawn in percentage points."""

from __future__ import annotations

import numpy as np
import pytest

import analysis
from analysis import plot
from tests.analysis.plot.conftest import THREE_MB
from treekv import TreeKVError


def test_two_records_laid_over_each_other(marked_up):
    figure = plot.retention_difference(marked_up, policies=("tree", "<b>window</b>"), layer=1, head=0)
    cells = np.asarray(figure.data[0].z)
    for step in (20, 100, 300):
        mine, other = (
            analysis.kept_mask(marked_up, step).sel(policy=name, layer=1, head=0).values.astype(int)
            for name in ("tree", "<b>window</b>")
        )
        np.testing.assert_array_equal(cells[step], 100 * (mine - other))
    common, either = (mine & other).sum(), (mine | other).sum()
    words = figure.layout.title.subtitle.text.replace("<br>", " ")
    steps = int(marked_up.attrs["steps"])
    assert f"after step {steps - 1} {100 * common / either:.0f} %" in words
    both = alone = 0
    for step in range(steps):
        mine, other = (
            analysis.kept_mask(marked_up, step).sel(policy=name, layer=1, head=0).values
            for name in ("tree", "<b>window</b>")
        )
        both, alone = both + int((mine & other).sum()), alone + int((mine | other).sum())
    assert f"over all steps they share {100 * both / alone:.1f} % of what either keeps" in words
    grid = figure.data[0]
    colours = dict(grid.colorscale[1:-1])
    assert set(colours.values()) >= {"rgba(0,0,0,0)"}  # where nothing differs nothing is drawn
    smallest = (1 - grid.zmin) / (grid.zmax - grid.zmin)
    assert smallest > 0.5025  # and the smallest difference is
    assert (np.asarray(plot.retention_difference(marked_up, policies=("tree", "tree")).data[0].z) == 0).all()
    part = plot.retention_difference(
        marked_up, policies=("tree", "<b>window</b>"), start=100, stop=150, steps=(120, 130)
    )
    shares = [
        analysis.kept_mask(marked_up, 125).sel(policy=name).mean(("layer", "head"))
        for name in marked_up["policy"].values
    ]
    np.testing.assert_array_equal(part.data[0].z[5], np.rint(100 * (shares[0] - shares[1]).values[100:150]))
    with pytest.raises(TreeKVError, match="'h2o'"):
        plot.retention_difference(marked_up, policies=("tree", "h2o"))


def test_the_difference_of_a_long_text_stays_small(made_record):
    figure = plot.retention_difference(made_record(5000), policies=("tree", "streaming"))
    assert len(figure.to_json()) < THREE_MB
    assert "<" not in figure.layout.title.text


def test_two_policies_are_compared_no_more_and_no_fewer(marked_up):
    one = marked_up.isel(policy=[0])
    with pytest.raises(TreeKVError, match="give the two policies to compare, got tree"):
        plot.retention_difference(one)
    with pytest.raises(TreeKVError, match="give the two policies to compare, got none"):
        plot.retention_difference(marked_up, policies=[])
