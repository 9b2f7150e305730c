"""Figures that compare policies draw the numbers of the datasets that they are given."""

from __future__ import annotations

import numpy as np
import pytest

import analysis
from analysis import plot
from treekv import TreeKVConfig, TreeKVError

THREE_MB = 3_000_000


@pytest.fixture(scope="module")
def record(run):
    configs = {
        "tree": TreeKVConfig(cache_size=32, sink_size=2, prefill="stream", block_size=8),
        "<b>window</b>": TreeKVConfig(policy="streaming", cache_size=32),
    }
    return analysis.simulate(run, configs)


@pytest.mark.parametrize("name", ["mass", "error"])
def test_what_is_lost_layer_by_layer(run, record, name):
    lost = analysis.output_loss(run, record, queries=range(200, 300, 10))
    draw = plot.mass_retained if name == "mass" else plot.output_error
    figure = draw(lost)
    assert [line.name for line in figure.data] == ["tree", "&lt;b&gt;window&lt;/b&gt;"]
    others = [dim for dim in lost[name].dims if dim not in ("policy", "layer")]
    for line, policy in zip(figure.data, record["policy"].values):
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


def test_bias_is_drawn_in_bars(record):
    found = analysis.recency_bias(record)
    figure = plot.bias(found)
    for bars, name in zip(figure.data[:2], ("distance", "gini")):
        np.testing.assert_allclose(bars.x, found[name].mean(("layer", "head")))
        np.testing.assert_allclose(bars.error_x.array, found[name].std(("layer", "head")))
        assert list(bars.y) == ["tree", "&lt;b&gt;window&lt;/b&gt;"]
    np.testing.assert_allclose(figure.data[2].x, found["ideal_gini"].mean(("layer", "head")))
    gini = float(found["gini"].sel(policy="tree").mean())
    assert f"tokens and {gini:.2f}" in figure.layout.meta["alt"]
    whole = analysis.recency_bias(record.isel(policy=[0]), step=20)  # nothing is evicted yet
    assert "tree 0 tokens and 0.00" in plot.bias(whole).layout.meta["alt"]


def test_two_records_laid_over_each_other(record):
    figure = plot.retention_difference(record, policies=("tree", "<b>window</b>"), layer=1, head=0)
    cells = np.asarray(figure.data[0].z)
    for step in (20, 100, 300):
        mine, other = (
            analysis.kept_mask(record, step).sel(policy=name, layer=1, head=0).values.astype(int)
            for name in ("tree", "<b>window</b>")
        )
        np.testing.assert_array_equal(cells[step], 100 * (mine - other))
    common, either = (mine & other).sum(), (mine | other).sum()
    assert f"share {100 * common / either:.0f} % of what either keeps" in figure.layout.title.subtitle.text
    assert (np.asarray(plot.retention_difference(record, policies=("tree", "tree")).data[0].z) == 0).all()
    part = plot.retention_difference(record, policies=("tree", "<b>window</b>"), start=100, stop=150, steps=(120, 130))
    shares = [
        analysis.kept_mask(record, 125).sel(policy=name).mean(("layer", "head")) for name in record["policy"].values
    ]
    np.testing.assert_array_equal(part.data[0].z[5], np.rint(100 * (shares[0] - shares[1]).values[100:150]))
    with pytest.raises(TreeKVError, match="'h2o'"):
        plot.retention_difference(record, policies=("tree", "h2o"))


def test_the_difference_of_a_long_text_stays_small(made_record):
    figure = plot.retention_difference(made_record(5000), policies=("tree", "streaming"))
    assert len(figure.to_json()) < THREE_MB
    assert "<" not in figure.layout.title.text


def test_every_figure_says_what_it_shows(run, record):
    lost = analysis.output_loss(run, record)
    for figure in (
        plot.mass_retained(lost),
        plot.output_error(lost),
        plot.bias(analysis.recency_bias(record)),
        plot.retention_difference(record, policies=("tree", "<b>window</b>")),
        plot.eviction_maps(record),
    ):
        assert len(figure.layout.meta["alt"]) > 80
        assert figure.layout.title.text and figure.layout.xaxis.title.text
        assert "<b>" not in figure.layout.title.text
