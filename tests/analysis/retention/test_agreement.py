"""Agreement as sets: Python's own operations are the oracle."""

from __future__ import annotations

import numpy as np
import pytest

import analysis
from analysis.retention.agreement import agreement
from treekv import TreeKVError


def held_set(record, step, policy, layer, head):
    kept = analysis.kept_mask(record, step).sel(policy=policy, layer=layer, head=head)
    return set(np.flatnonzero(kept.values).tolist())


def jaccard(a, b):
    return len(a & b) / len(a | b) if a | b else 1.0


@pytest.mark.parametrize("step", [None, 17])
def test_between_policies_heads_and_layers(made_record, step):
    record = made_record(40)
    at = 39 if step is None else step

    def kept(*where):
        return held_set(record, at, *where)

    policies, layers, heads = ("tree", "streaming"), (0, 3), (0, 1)
    between = agreement(record, "policy", step)
    assert between.dims == ("layer", "policy", "other")
    for layer in layers:
        for a in policies:
            for b in policies:
                expected = np.mean([jaccard(kept(a, layer, h), kept(b, layer, h)) for h in heads])
                assert between.sel(layer=layer, policy=a, other=b).item() == pytest.approx(expected)
    between = agreement(record, "head", step)
    for policy in policies:
        for layer in layers:
            expected = jaccard(kept(policy, layer, 0), kept(policy, layer, 1))
            assert between.sel(policy=policy, layer=layer, head=0, other=1).item() == pytest.approx(expected)
            assert between.sel(policy=policy, layer=layer, head=1, other=1).item() == 1
    between = agreement(record, "layer", step)
    for policy in policies:
        for a in layers:
            for b in layers:
                pairs = [(g, h) for g in heads for h in heads if a != b or g != h]
                expected = np.mean([jaccard(kept(policy, a, g), kept(policy, b, h)) for g, h in pairs])
                assert between.sel(policy=policy, layer=a, other=b).item() == pytest.approx(expected)


def test_one_head_agrees_with_itself_and_empty_sets_agree(made_record):
    record = made_record(40).isel(head=[0])
    assert (agreement(record, "layer").sel(layer=3, other=3) == 1).all()
    record["evicted_at"][:] = 39
    assert (agreement(record, "policy") == 1).all()


def test_bad_requests(made_record):
    with pytest.raises(TreeKVError, match="'policy', 'layer', 'head', got 'token'"):
        agreement(made_record(20), "token")
    with pytest.raises(TreeKVError, match="step 20"):
        agreement(made_record(20), step=20)
