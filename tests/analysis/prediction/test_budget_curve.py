"""The curve is the loss at each size, found one by one."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import analysis
from analysis import plot
from analysis.prediction.budget_curve import at_sizes, usual_sizes
from tests import tiny
from treekv import TreeKVConfig, TreeKVError

TREE, WINDOW = TreeKVConfig(cache_size=32, prefill="stream"), TreeKVConfig(policy="streaming", cache_size=32)


@pytest.fixture(scope="module")
def ids():
    return tiny.tokens(120, seed=5)[0]


@pytest.mark.parametrize("measured", [False, True])
def test_every_point_is_the_loss_at_its_size(llama, ids, measured):
    ids = ids[:70]
    curve = analysis.budget_curve(llama, ids, [TREE, WINDOW], [24, 48], measured=measured, dtype="float32")
    find = analysis.measure if measured else analysis.replay
    for name, config in (("tree", TREE), ("streaming", WINDOW)):
        for size in (24,) if measured else (24, 48):
            alone = analysis.extra_loss(find(llama, ids, {"it": config.replace(cache_size=size)}, dtype="float32"))
            assert float(curve.sel(policy=name, size=size)) == pytest.approx(float(alone.item()), abs=1e-4)
    assert curve.dims == ("policy", "size") and curve.attrs["source"] == ("run" if measured else "replay")


def test_sizes_that_were_given_for_another_budget_are_derived_again():
    recent = TreeKVConfig(cache_size=64, recent_size=50)
    assert at_sizes({"it": recent}, [48])["it", 48] == TreeKVConfig(cache_size=48)
    assert at_sizes({"it": recent}, [128])["it", 128].recent_size == 50
    assert usual_sizes(1024) == [32, 64, 128, 256, 512] and usual_sizes(100) == [48] and usual_sizes(50) == []


def test_the_picture_has_the_points(llama, ids):
    values = xr.DataArray(
        [[0.5, 0.25], [0.75, np.nan]], dims=("policy", "size"), coords={"policy": ["tree", "<b>"], "size": [32, 64]}
    )
    figure = plot.budget_curve(xr.Dataset({"predicted": values, "measured": values + 0.5}))
    lines = {trace.name: trace for trace in figure.data}
    assert list(lines) == ["tree", "tree, measured", "&lt;b&gt;", "&lt;b&gt;, measured"]
    assert lines["tree"].y.tolist() == [0.5, 0.25] and lines["tree, measured"].mode == "markers"
    assert "tree +0.500 at 32, +0.250 at 64; <b> +0.750 at 32" in figure.layout.meta["alt"]
    assert plot.budget_curve(values).layout.title.subtitle.text.endswith("predicted")
    with pytest.raises(TreeKVError, match="no loss of any setting"):
        plot.budget_curve(values * np.nan)


def test_bad_requests_are_one_sentence(llama, ids):
    with pytest.raises(TreeKVError, match="no cache sizes"):
        analysis.budget_curve(llama, ids[:40], TREE)
    with pytest.raises(TreeKVError, match="leaves a tree region of 0"):
        analysis.budget_curve(llama, ids, TREE.replace(budgets=(24, 40)), [4])


def test_budgets_are_kept_in_proportion():
    config = TREE.replace(budgets=(24, 40))
    wanted = at_sizes({"own": config}, [16, 64])
    assert [one.budgets for one in wanted.values()] == [(12, 20), (48, 80)]
