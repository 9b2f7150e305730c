"""The dendrogram has the life of every token and every absorption."""

from __future__ import annotations

import numpy as np
import pytest

import analysis
from analysis import plot
from treekv import TreeKVError


def test_tree_draws_every_life_and_every_absorption(record):
    figure = plot.tree(record, policy="tree", layer=1, head=0, start=200, stop=240)
    one = record.sel(policy="tree", layer=1, head=0)
    forest = analysis.eviction_tree(record).sel(policy="tree", layer=1, head=0)
    lines = set()
    for trace in figure.data:
        if trace.mode == "lines":
            xs, ys = np.array(trace.x, dtype=float).reshape(-1, 4), np.array(trace.y, dtype=float).reshape(-1, 4)
            lines |= {tuple(int(v) for v in (x[0], y[0], y[1], x[2])) for x, y in zip(xs, ys)}
    expected = set()
    for position in range(200, 240):
        gone, parent = int(one["evicted_at"][position]), int(forest["parent"][position])
        end = gone if gone >= 0 else 300
        expected.add((position, position, end, parent if 200 <= parent < 240 else position))
    assert lines == expected
    held = next(trace for trace in figure.data if trace.name == "still kept")
    assert list(held.x) == [p for p in range(200, 240) if int(one["evicted_at"][p]) < 0]
    assert f"of 40 tokens {len(held.x)} are still kept" in figure.layout.meta["alt"]
    evicted = next(trace for trace in figure.data if trace.name == "evicted")
    assert f"evicted at step {int(one['evicted_at'][evicted.x[0]])}" in evicted.text[0]


def test_tree_chooses_a_stretch_and_refuses_others(record):
    figure = plot.tree(record, policy="tree")
    low, high = figure.layout.xaxis.range
    assert low == 301 - 64 - 1 and high == low + 1 + 48
    for wrong in (dict(start=290, stop=302), dict(start=5, stop=5)):
        with pytest.raises(TreeKVError, match="must lie within the 301 tokens"):
            plot.tree(record, policy="tree", **wrong)
    with pytest.raises(TreeKVError, match="at most 256"):
        plot.tree(record, policy="tree", start=0, stop=300)
    with pytest.raises(TreeKVError, match="several policies"):
        plot.tree(record)
