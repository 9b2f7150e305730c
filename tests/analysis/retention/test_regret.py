"""Regret against leaving each token out by itself, and the most costly evictions in words."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import analysis
from tests import tiny
from tests.reference import sensitivity as reference
from treekv import TreeKVConfig, TreeKVError

TOKENS = 61


@pytest.fixture(scope="module")
def captured():
    with torch.inference_mode(False):
        return analysis.capture(tiny.llama(), None, tiny.tokens(TOKENS, seed=3)[0], queries=4, sensitivity=True)


@pytest.fixture(scope="module")
def retention(captured):
    tree = TreeKVConfig(cache_size=16, prefill="stream", block_size=4)
    return analysis.simulate(captured, {"tree": tree, "window": tree.replace(policy="streaming")})


def test_regret_is_what_leaving_a_token_out_would_cost(captured, retention):
    found = analysis.regret(captured, retention)
    evicted = retention["evicted_at"]
    for policy, layer, head in (("tree", 0, 1), ("tree", 1, 0), ("window", 1, 1)):
        for j in range(0, TOKENS, 4):
            gone = int(evicted.sel(policy=policy, layer=layer, head=head, position=j))
            wanted = reference.regret(captured, gone, layer, head, j)
            value = float(found.sel(policy=policy, layer=layer, head=head, position=j))
            assert value == pytest.approx(wanted, rel=2e-3, abs=1e-12), (policy, layer, head, j)
    assert (found.values[evicted.values < 0] == 0).all()


def test_queries_in_parts_give_the_same(captured, retention, monkeypatch):
    whole = analysis.regret(captured, retention)
    monkeypatch.setattr("analysis.retention.regret.QUERIES_AT_ONCE", 7)
    done = []
    parts = analysis.regret(captured, retention, progress=lambda n, total: done.append((n, total)))
    np.testing.assert_allclose(parts.values, whole.values, rtol=1e-4, atol=1e-12)
    assert done == [(1, 2), (2, 2)]


def test_the_most_costly_evictions_in_words(captured, retention):
    found = analysis.regret(captured, retention)
    sentences = analysis.most_costly(captured, retention, found, "tree", most=3)
    total = found.sel(policy="tree").sum(("layer", "head"))
    order = np.argsort(-total.values, kind="stable")[:3]
    assert [int(sentence.split()[1].replace(",", "")) for sentence in sentences] == order.tolist()
    gone = retention["evicted_at"].sel(policy="tree", position=order[0]).values
    assert f"evicted in {(gone >= 0).sum()} of 4 heads" in sentences[0]


def test_bad_requests_are_one_sentence(captured, retention):
    plain = analysis.capture(tiny.llama(), None, tiny.tokens(TOKENS, seed=3)[0], queries=4)
    with pytest.raises(TreeKVError, match="no gradients of the loss"):
        analysis.regret(plain, retention)
    found = analysis.regret(captured, retention)
    with pytest.raises(TreeKVError, match="no policy 'h2o', only tree, window"):
        analysis.most_costly(captured, retention, found, "h2o")
    with pytest.raises(TreeKVError, match="at least 1, got 0"):
        analysis.most_costly(captured, retention, found, "tree", most=0)
