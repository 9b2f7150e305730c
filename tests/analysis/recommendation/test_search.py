"""A search adopts what lowers the error enough, and logs all that it compared."""

from __future__ import annotations

import numpy as np
import pytest

import analysis
from analysis.recommendation.search import LEAST_GAIN, Search
from treekv import TreeKVConfig

BASE = TreeKVConfig(cache_size=64, prefill="stream", block_size=16)


@pytest.fixture
def search(captured, monkeypatch):
    """Whose measured error is a hundredth of the scope."""
    found = Search(captured, best=BASE, error=1.0)
    monkeypatch.setattr(
        found, "measure", lambda configs: {n: (c.scope / 100, 0.5, np.full(2, c.scope)) for n, c in configs.items()}
    )
    return found


def test_the_numbers_are_those_of_simulation_and_loss(captured):
    configs = {"a": BASE, "b": BASE.replace(scope=4)}
    lost = analysis.output_loss(captured, analysis.simulate(captured, configs))
    for name, (error, mass, by_layer) in Search(captured).measure(configs).items():
        own = lost.sel(policy=name)
        assert (error, mass) == pytest.approx((float(own["error"].mean()), float(own["mass"].mean())))
        np.testing.assert_allclose(by_layer, own["error"].mean("query"))


def test_the_best_candidate_is_adopted_and_all_are_logged(search):
    candidates = {f"scope {scope}": BASE.replace(scope=scope) for scope in (8, 4, 6)}
    assert search.compare_candidates("scope", candidates) == "scope 4"
    assert (search.best.scope, search.error, search.layer_errors.tolist()) == (4, 0.04, [4, 4])
    table = search.table()
    assert table["setting"].values.tolist() == list(candidates)
    assert table["chosen"].values.tolist() == [False, True, False]
    assert table["error"].values.tolist() == [0.08, 0.04, 0.06]


@pytest.mark.parametrize(("gain", "adopted"), [(LEAST_GAIN * 0.9, False), (LEAST_GAIN * 1.1, True)])
def test_a_small_gain_changes_nothing(search, gain, adopted):
    search.error = 0.04 / (1 - gain)
    search.decide("scope", "Scope", {"scope 4": BASE.replace(scope=4)}, lambda config: str(config.scope))
    assert (search.best.scope == 4) == adopted
    assert search.sentences[0].startswith(
        "Scope: 4; the error falls" if adopted else "Scope: 2, as by default; nothing"
    )


def test_no_candidates_are_no_decision(search):
    assert search.compare_candidates("scope", {}) is None
    assert search.rows == []


def test_a_variant_that_is_not_valid_is_none(search):
    assert search.variant(BASE, scope=4).scope == 4
    assert search.variant(BASE, block_size=128) is None
    assert search.variant(BASE, budgets=(32, 32, 32)) is None  # the model has two layers
