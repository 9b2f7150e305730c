"""The eviction tree: by hand, and against a transcription that follows every link."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import analysis
from analysis.retention.tree import eviction_tree
from tests.reference.tree import forest
from treekv import TreeKVConfig, TreeKVError


def record(evicted_at, survivor):
    dims = ("policy", "layer", "head", "position")
    return xr.Dataset(
        {"evicted_at": (dims, [[[evicted_at]]]), "survivor": (dims, [[[survivor]]])},
        coords={"policy": ["tree"], "layer": [0], "head": [0], "position": np.arange(len(evicted_at))},
        attrs={"steps": len(evicted_at)},
    )


def columns(result):
    return {name: result[name].values.ravel().tolist() for name in ("parent", "root", "depth", "size")}


def test_by_hand():
    # 1 is absorbed by 2 at step 4, 3 by 2 at step 5, then 2 by 4 at step 6; 0 and 4 to 6 stay.
    made = record([-1, 4, 6, 5, -1, -1, -1], [-1, 2, 4, 2, -1, -1, -1])
    assert columns(eviction_tree(made)) == {
        "parent": [-1, 2, 4, 2, -1, -1, -1],
        "root": [0, 4, 4, 4, 4, 5, 6],
        "depth": [0, 2, 1, 2, 0, 0, 0],
        "size": [1, 1, 3, 1, 4, 1, 1],
    }
    assert columns(eviction_tree(made, step=5)) == {
        "parent": [-1, 2, -1, 2, -1, -1],
        "root": [0, 2, 2, 2, 4, 5],
        "depth": [0, 1, 0, 1, 0, 0],
        "size": [1, 1, 3, 1, 1, 1],
    }


def test_a_token_evicted_without_comparison_is_a_root():
    made = record([-1, 3, 3, -1], [-1, -1, 1, -1])
    assert columns(eviction_tree(made))["root"] == [0, 1, 1, 3]


@pytest.mark.parametrize("settings", [dict(prefill="stream", block_size=8), dict(), dict(scope=4), dict(stride=2)])
@pytest.mark.parametrize("step", [20, 150, None])
def test_equals_the_slow_transcription(captured, settings, step):
    config = TreeKVConfig(cache_size=32, sink_size=2, **settings)
    retention = analysis.simulate(captured, {"tree": config}, prompt=100 if settings == {} else 0)
    result = eviction_tree(retention, step)
    last = captured.tokens - 1 if step is None else step
    for layer in (0, 1):
        for head in (0, 1):
            one = retention.sel(policy="tree", layer=layer, head=head)
            expected = forest(one["evicted_at"].values.tolist(), one["survivor"].values.tolist(), last)
            got = result.sel(policy="tree", layer=layer, head=head)
            for name in ("parent", "root", "depth", "size"):
                assert got[name].values.tolist() == [token[name] for token in expected]


def test_the_roots_are_the_kept_tokens_and_represent_all(captured):
    config = TreeKVConfig(cache_size=32, sink_size=2)
    retention = analysis.simulate(captured, {"tree": config})
    result = eviction_tree(retention, 200)
    roots = result["parent"] == -1
    kept = analysis.kept_mask(retention, 200).isel(position=slice(201))
    assert (roots.values == kept.transpose(*roots.dims).values).all()
    assert (result["size"].where(roots).sum("position") == 201).all()
    assert result["size"].max() > 8  # several sweeps have passed


def test_bad_records_and_steps():
    made = record([-1, 2, 2, -1], [-1, 2, 1, -1])
    with pytest.raises(TreeKVError, match="cycle"):
        eviction_tree(made)
    with pytest.raises(TreeKVError, match=r"step 4.*0 to 3"):
        eviction_tree(made, 4)
    with pytest.raises(TreeKVError, match="did not exist yet"):
        eviction_tree(record([-1, 2, -1, -1], [-1, 3, -1, -1]), 2)
