"""Trends are drawn with their intervals and null distributions."""

from __future__ import annotations

import numpy as np
import pytest

import analysis
from analysis import plot


@pytest.fixture
def found(growing):
    return analysis.trends(
        growing.assign_coords(support=("band", [16, 16, 8, 4, 2])), resamples=99, protocol="to the last token"
    )


def test_trends_are_drawn_with_interval_and_null(found):
    figure = plot.trends(found)
    for column, name in enumerate(("growth", "slope", "rank_correlation")):
        axis = "x" if column == 0 else f"x{column + 1}"
        traces = [trace for trace in figure.data if trace.xaxis == axis]
        (null,) = (trace for trace in traces if trace.type == "bar")
        base = 1 if name == "growth" else 0
        np.testing.assert_allclose(np.asarray(null.x) + base, found[name + "_null"])
        drawn = {}
        for trace in traces:
            if trace.type != "bar":
                arms = zip(trace.error_x.arrayminus, trace.error_x.array)
                drawn |= {y: (x, x - a, x + b, trace.name) for y, x, (a, b) in zip(trace.y, trace.x, arms)}
        for i, band in enumerate(found["band"].values):
            low, high = found[name + "_low"].values[i], found[name + "_high"].values[i]
            np.testing.assert_allclose(drawn[band][:3], (found[name].values[i], low, high), rtol=1e-9)
            assert drawn[band][3] == f"claim (i) {found['claim_i'].values[i]}"
    assert f"claim (ii) {found.attrs['claim_ii']}" in figure.layout.title.subtitle.text
    assert f"D1 grows by {float(found['growth'][-1]):.1f} (" in figure.layout.meta["alt"]


def test_trends_of_one_query_have_no_whiskers(growing):
    one = growing.assign_coords(support=("band", [16, 16, 8, 4, 2])).isel(query=[0])
    figure = plot.trends(analysis.trends(one, resamples=99, protocol="to the last token"))
    assert all((np.asarray(trace.error_x.array) == 0).all() for trace in figure.data if trace.type == "scatter")
