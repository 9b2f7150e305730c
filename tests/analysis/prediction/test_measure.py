"""Several settings as rows of one batch, against one cache after another."""

from __future__ import annotations

import numpy as np
import pytest

import analysis
from analysis.evaluation import stream_perplexity
from analysis.prediction import measure
from tests import tiny
from treekv import TreeKVCache, TreeKVConfig

TOKENS = 101
CONFIGS = {
    "tree": TreeKVConfig("tree", 24, prefill="stream", block_size=8),
    "h2o": TreeKVConfig("h2o", 16, prefill="stream", block_size=8, positions="original"),
    "window": TreeKVConfig("streaming", 20, prefill="stream", block_size=3),
    "slow": TreeKVConfig("tova", 20),  # token by token
    "budgets": TreeKVConfig("tree", 24, prefill="stream", block_size=8, budgets=(16, 32)),
}


@pytest.fixture(scope="module")
def ids():
    return tiny.tokens(TOKENS)[0]


@pytest.mark.parametrize("model", ["llama", "hybrid"])
def test_rows_of_a_batch_equal_one_after_another(request, model, ids):
    model = request.getfixturevalue(model)
    calls = []
    measured = analysis.measure(model, ids, CONFIGS, dtype="float32", progress=lambda *n: calls.append(n))
    assert measured["policy"].values.tolist() == ["full", *CONFIGS]
    for name, config in {"full": TreeKVConfig("full"), **CONFIGS}.items():
        chunk = config.block_size if config.prefill == "stream" else 1
        alone = stream_perplexity(model, ids, TreeKVCache(config, model.config), chunk).nll
        np.testing.assert_allclose(measured["loss"].sel(policy=name), alone, atol=1e-4)
    assert calls[-1] == (6 * TOKENS, 6 * TOKENS) and calls == sorted(calls)


def test_settings_that_read_alike_share_a_batch(monkeypatch):
    batches = measure._batches({"full": TreeKVConfig("full"), **CONFIGS}, 0, tiny.VOCABULARY)
    assert batches == [(["full", "tree", "h2o", "budgets"], 128), (["window"], 510), (["slow"], 1)]
    assert measure._batches(CONFIGS, 10, 99) == [(["full", *CONFIGS], 1)]
    monkeypatch.setattr(measure, "ROWS", 4)
    names = [names for names, _ in measure._batches(CONFIGS, 10, 99)]
    assert names == [["full", *list(CONFIGS)[:3]], ["slow", "budgets"]]
    monkeypatch.setattr(measure, "PASS_LOGITS", 10)
    assert measure._batches({"tree": CONFIGS["tree"]}, 0, 99) == [(["full", "tree"], 8)]


def test_interrupted_it_keeps_what_is_finished(llama, ids):
    def progress(done, total):
        if done > 5 * TOKENS:
            raise KeyboardInterrupt

    found = analysis.measure(llama, ids, CONFIGS, progress=progress)
    assert found["policy"].values.tolist() == ["full", "tree", "h2o", "window", "budgets"]
    assert found.attrs["interrupted"] == 1


def test_gradients_and_the_model_stay_as_they_are(llama, ids):
    llama.train()
    try:
        analysis.measure(llama, ids[:40], {"it": CONFIGS["tree"]})
        analysis.replay(llama, ids[:40], {"it": CONFIGS["tree"]})
        assert llama.training and not llama.base_model._forward_hooks
    finally:
        llama.eval()
