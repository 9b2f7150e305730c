"""The lines are the shares of heads that keep a token."""

from __future__ import annotations

import numpy as np
import pytest

import analysis
from analysis import plot
from treekv import TreeKVError


def test_density_draws_a_line_a_policy(record):
    figure = plot.density(record, step=200)
    share = analysis.density(record, step=200, max_cells=201)
    assert [line.name for line in figure.data] == ["tree", "streaming"]
    for line in figure.data:
        near = [i for i, x in enumerate(line.x) if x < 15]  # runs of one token
        assert [line.x[i] for i in near] == list(range(1, len(near) + 1))
        expected = 100 * share.sel(policy=line.name).values
        np.testing.assert_allclose([line.y[i] for i in near], expected[: len(near)])
        last = [i for i, x in enumerate(line.x) if x > 150]
        assert min(expected[150:]) <= line.y[last[-1]] <= max(expected[150:])
    assert figure.layout.xaxis.type == "log" and "tokens" in figure.layout.xaxis.title.text
    assert "streaming" in figure.layout.meta["alt"]


def test_density_of_one_layer_and_head(record):
    for chosen, whole, words in (
        ({"layer": 1}, "heads", "layer 1, mean of 2 KV heads"),
        ({"head": 0}, "layers", "mean of 2 layers, KV head 0"),
        ({"layer": 1, "head": 0}, "tokens", "layer 1, KV head 0"),
    ):
        figure = plot.density(record, step=200, **chosen)
        expected = 100 * analysis.density(record, step=200, max_cells=201, **chosen).sel(policy="tree").values
        near = [i for i, x in enumerate(figure.data[0].x) if x < 15]
        np.testing.assert_allclose([figure.data[0].y[i] for i in near], expected[: len(near)])
        assert figure.layout.yaxis.title.text == f"kept (% of {whole})"
        assert words in figure.layout.title.subtitle.text and words in figure.layout.meta["alt"]
    with pytest.raises(TreeKVError, match="head 2"):
        plot.density(record, head=2)


def test_a_stretch_of_the_density(made_record):
    record = made_record(400)
    figure = plot.density(record, step=300, start=200, stop=291)
    share = 100 * analysis.kept_mask(record, 300).sel(policy="tree").mean(("layer", "head")).values
    line = figure.data[0]
    assert (line.x[0], line.y[0]) == (11, share[290])  # distances 10 to 100; the axis counts the newest as 1
    assert 90 < line.x[-1] <= 101
    assert "distance from the newest, 10 to 100" in figure.layout.meta["alt"]
    assert "positions 200 to 290" in figure.layout.title.subtitle.text
    assert "positions" not in plot.density(record, step=300).layout.title.subtitle.text
    left, right = figure.layout.xaxis.range
    ticks = np.log10(figure.layout.xaxis.tickvals)
    assert len(ticks) > 1 and (ticks > left).all() and (ticks < right).all()
    one = plot.density(record, step=300, start=250, stop=251)
    assert list(one.data[0].y) == [share[250]]
