"""The bars are the two numbers of the regional bias."""

from __future__ import annotations

import numpy as np

import analysis
from analysis import plot


def test_bias_is_drawn_in_bars(marked_up):
    found = analysis.recency_bias(marked_up)
    figure = plot.bias(found)
    for bars, name in zip(figure.data[:2], ("distance", "gini")):
        np.testing.assert_allclose(bars.x, found[name].mean(("layer", "head")))
        np.testing.assert_allclose(bars.error_x.array, found[name].std(("layer", "head")))
        assert list(bars.y) == ["tree", "&lt;b&gt;window&lt;/b&gt;"]
    np.testing.assert_allclose(figure.data[2].x, found["ideal_gini"].mean(("layer", "head")))
    gini = float(found["gini"].sel(policy="tree").mean())
    assert f"tokens and {gini:.2f}" in figure.layout.meta["alt"]
    whole = analysis.recency_bias(marked_up.isel(policy=[0]), step=20)  # nothing is evicted yet
    assert "tree 0 tokens and 0.00" in plot.bias(whole).layout.meta["alt"]
