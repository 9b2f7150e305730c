"""Survival of the bands against its definition, and where a window cuts them."""

from __future__ import annotations

import numpy as np
import pytest

import analysis
from tests.analysis.wavelets.sensitive import capture_with_gradients
from tests.reference import sensitivity as reference
from tests.reference.wavelets import components
from treekv import TreeKVConfig, TreeKVError

CONFIGS = {
    "tree": TreeKVConfig(cache_size=16, sink_size=2, recent_size=4),
    "streaming": TreeKVConfig(policy="streaming", cache_size=16, sink_size=4),
    "full": TreeKVConfig(policy="full"),
}


@pytest.fixture(scope="module")
def pair():
    captured = capture_with_gradients(tokens=64)
    return captured, analysis.simulate(captured, CONFIGS)


def test_equals_its_definition(pair):
    captured, record = pair
    queries = [40, 61]
    found = analysis.survival(captured, record, queries)
    assert found["survival"].dims == ("policy", "band", "distance")
    assert found["band"].values.tolist() == ["A5", "D5", "D4", "D3", "D2", "D1"]
    assert found["distance"].values.tolist() == [0, 8, 16, 32]
    assert found["distance_end"].values.tolist() == [8, 16, 32, 64]
    edges = [0, *found["distance_end"].values.tolist()]
    for policy in ("tree", "streaming"):
        evicted = record["evicted_at"].sel(policy=policy).values
        for kind, name in (("values", "survival"), ("loss", "loss_survival")):
            expected = reference.survival(captured, evicted, queries, 5, edges, kind, components)
            np.testing.assert_allclose(found[name].sel(policy=policy), expected, atol=2e-3)


def test_a_window_cuts_all_bands_and_the_full_cache_none(pair):
    captured, record = pair
    found = analysis.survival(captured, record)
    for name in ("survival", "loss_survival"):
        np.testing.assert_allclose(found[name].sel(policy="full"), 1, atol=1e-4)
        window = found[name].sel(policy="streaming", band="D1")  # 12 tokens; coarse bands reach beyond its edge
        assert window.sel(distance=0) > 0.7 and (window.sel(distance=[16, 32]) == 0).all()
        tree = found[name].sel(policy="tree").sel(distance=[16, 32])
        assert ((tree >= 0) & (tree <= 1)).all() and (tree > 0).any()
    energy = found["energy"]
    assert (energy > 0).all() and energy.dims == ("band", "distance")


def test_a_capture_without_gradients_has_the_plain_one_only(captured, tmp_path):
    seen = []
    record = analysis.simulate(captured, CONFIGS)
    found = analysis.survival(captured, record, progress=lambda *call: seen.append(call))
    assert set(found.data_vars) == {"survival", "energy"} and seen == [(1, 2), (2, 2)]
    assert analysis.open(analysis.save(found, tmp_path / "survival.nc"), "survival").identical(found)


def test_what_does_not_fit_is_refused(pair):
    captured, record = pair
    with pytest.raises(TreeKVError, match=r"queries are \[2\]; give positions from 5 to 63"):
        analysis.survival(captured, record, [2])
    with pytest.raises(TreeKVError, match=r"queries are \[64\]"):
        analysis.survival(captured, record, [64])
    with pytest.raises(TreeKVError, match="the record has 60 tokens, the capture 64"):
        analysis.survival(captured, record.isel(position=slice(60)))
