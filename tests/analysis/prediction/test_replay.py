"""One masked forward pass against real runs, token by token."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import DynamicCache

import analysis
from analysis.evaluation import stream_perplexity
from tests import tiny
from tests.policies_table import BOUNDED, settings_of
from treekv import TreeKVCache, TreeKVConfig, TreeKVError

TOKENS = 151
BLIND = ("streaming", "tree_left", "random")  # policies that do not look at attention


@pytest.fixture(scope="module", params=[2, 4], ids=["gqa", "mha"])
def model(request):
    return tiny.llama(kv_heads=request.param)


@pytest.fixture(scope="module")
def ids():
    return tiny.tokens(TOKENS)[0]


def replay(*arguments, **options):
    """In float32: by default it computes in bfloat16 where the machine is faster so."""
    return analysis.replay(*arguments, dtype="float32", **options)


def streamed(model, ids, config, chunk):
    return stream_perplexity(model, ids, TreeKVCache(config, model.config), chunk).nll.numpy()


def settings(policy: str, block: int) -> TreeKVConfig:
    return TreeKVConfig(policy, 24, prefill="stream", block_size=block, positions="original")


@pytest.mark.parametrize("block", [1, 8, 5])
def test_policies_that_do_not_look_at_attention_are_predicted_from_the_capture(model, ids, block):
    captured = analysis.capture(model, None, ids, queries=1)
    configs = {policy: settings(policy, block) for policy in BLIND}
    retention = analysis.simulate(captured, configs)
    predicted = replay(model, captured, configs, retention=retention)["loss"]
    assert predicted["policy"].values.tolist() == ["full", *BLIND]
    assert predicted["position"].values.tolist() == list(range(1, TOKENS))
    full = stream_perplexity(model, ids, DynamicCache(config=model.config), chunk=TOKENS).nll.numpy()
    np.testing.assert_allclose(predicted.sel(policy="full"), full, atol=1e-4)
    for policy, config in configs.items():
        real = streamed(model, ids, config, block)
        assert np.abs(real - full)[24:].max() > 0.1
        np.testing.assert_allclose(predicted.sel(policy=policy), real, atol=1e-3)


@pytest.mark.parametrize("policy", BOUNDED)
@pytest.mark.parametrize("block", [1, 8])
def test_every_policy_is_predicted_by_its_decisions_in_the_pass(model, ids, policy, block):
    config = settings(policy, block)
    predicted = replay(model, ids, {"it": config})["loss"]
    np.testing.assert_allclose(predicted.sel(policy="it"), streamed(model, ids, config, block), atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("options", settings_of("decoding"), ids=str)
def test_every_option_is_predicted(llama, ids, options):
    config = TreeKVConfig(cache_size=16, positions="original", prefill="stream", block_size=1, **options)
    predicted = replay(llama, ids, {"it": config})["loss"].sel(policy="it")
    np.testing.assert_allclose(predicted, streamed(llama, ids, config, 1), atol=1e-3)


@pytest.mark.parametrize("prefill", ["once", "stream", "none"])
def test_after_a_prompt(llama, ids, prefill):
    configs = {
        policy: TreeKVConfig(policy, 32, prefill=prefill, block_size=4, positions="original")
        for policy in ("tree", "h2o", "streaming")
    }
    ahead = configs["tree"].replace(prompt_score="future", window_size=8)
    configs |= {"ahead": ahead, "ahead by head": ahead.replace(budgets=((24, 40), (36, 28)), recent_size="eighth")}
    predicted, measured = (
        find(llama, ids, configs, prompt=60, dtype="float32")["loss"] for find in (analysis.replay, analysis.measure)
    )
    assert predicted["position"].values.tolist() == list(range(61, TOKENS))
    np.testing.assert_allclose(predicted, measured, atol=1e-3)


def test_layers_with_a_sliding_window_run_as_usual(hybrid, ids):
    configs = {policy: settings(policy, 8) for policy in ("tree", "streaming")}
    predicted = replay(hybrid, ids, configs)["loss"]
    for policy, config in configs.items():
        np.testing.assert_allclose(predicted.sel(policy=policy), streamed(hybrid, ids, config, 8), atol=1e-3)


@pytest.mark.parametrize("budgets", [(16, 32), ((16, 32), (28, 20))], ids=["layer", "head"])
def test_budgets_by_layer_or_head(llama, ids, budgets):
    config = settings("tree", 4).replace(budgets=budgets)
    predicted = replay(llama, ids, {"it": config})["loss"].sel(policy="it")
    np.testing.assert_allclose(predicted, streamed(llama, ids, config, 4), atol=1e-3)


def test_rows_of_a_batch_and_parts_of_the_text_do_not_matter(llama, ids, monkeypatch):
    from analysis.prediction import masked_pass
    from analysis.prediction import replay as module

    configs = {policy: settings(policy, 4) for policy in ("tree", "h2o", "tova")}
    together = replay(llama, ids, configs)
    monkeypatch.setattr(module, "TOKENS_AT_ONCE", 2 * TOKENS)
    monkeypatch.setattr(masked_pass, "NUMBERS_AT_ONCE", 2 * 40 * tiny.VOCABULARY)
    calls = []
    apart = replay(llama, ids, configs, progress=lambda *numbers: calls.append(numbers))
    np.testing.assert_allclose(apart["loss"], together["loss"], atol=1e-5)
    assert calls == [(2, 8), (4, 8), (6, 8), (8, 8)]
    alone = replay(llama, ids, {"h2o": configs["h2o"]}, full=False)
    assert alone["policy"].values.tolist() == ["h2o"]
    np.testing.assert_allclose(alone["loss"][0], together["loss"].sel(policy="h2o"), atol=1e-5)


def test_half_precision_computes_on_a_copy(llama, ids):
    configs = {"it": settings("tree", 4)}
    exact, half = (analysis.replay(llama, ids, configs, dtype=dtype) for dtype in ("float32", "bfloat16"))
    assert (exact.attrs["dtype"], half.attrs["dtype"]) == ("float32", "bfloat16")
    assert next(llama.parameters()).dtype == torch.float32
    difference = np.abs(exact["loss"] - half["loss"])
    assert 0 < difference.mean() < 0.1


def test_interrupted_it_keeps_what_is_finished(llama, ids, monkeypatch):
    from analysis.prediction import replay

    monkeypatch.setattr(replay, "TOKENS_AT_ONCE", TOKENS)

    def stop_at(number):
        def progress(done, total):
            if done == number:
                raise KeyboardInterrupt

        return progress

    configs = {policy: settings(policy, 4) for policy in ("tree", "h2o", "tova")}
    found = analysis.replay(llama, ids, configs, progress=stop_at(5))
    assert found["policy"].values.tolist() == ["full", "tree"] and found.attrs["interrupted"] == 1
    with pytest.raises(KeyboardInterrupt):
        analysis.replay(llama, ids, configs, progress=stop_at(3))


def test_the_table_is_a_result_like_others(llama, ids, tmp_path):
    captured = analysis.capture(llama, None, ids, queries=1)
    found = analysis.replay(llama, captured, {"it": settings("streaming", 4)})
    assert found["token"].values.tolist() == captured.token_text[1:]
    extra = analysis.extra_loss(found)
    assert extra["policy"].values.tolist() == ["it"]
    np.testing.assert_allclose(extra, found["loss"].mean("position").diff("policy"), atol=1e-6)
    analysis.save(found, tmp_path / "loss.nc")
    assert analysis.open(tmp_path / "loss.nc", "token-loss").identical(found)


def test_impossible_input(llama, ids):
    config = settings("tree", 4)
    captured = analysis.capture(llama, None, ids, queries=1)
    record = analysis.simulate(captured, {"it": config})
    other = tiny.llama(intermediate_size=40)
    cases = [
        (llama, ids, {}, {}, "no settings given"),
        (llama, ids, {"full": config}, {}, "the name 'full' is that of the full cache"),
        (llama, ids[:1], {"it": config}, {}, r"at least 2 token ids, got the shape \(1,\)"),
        (llama, [5, 97], {"it": config}, {}, "token id 97 is outside"),
        (llama, ids, {"it": config}, {"prompt": 150}, "at least 2 of the 151 tokens, got 150"),
        (llama, ids, {"it": config}, {"dtype": "int8"}, "got 'int8'"),
        (other, captured, {"it": config}, {}, "give the checkpoint that was captured"),
    ]
    for model, text, configs, options, words in cases:
        for find in (analysis.replay, analysis.measure):
            with pytest.raises(TreeKVError, match=words):
                find(model, text, configs, **options)
    records = [
        (ids[:100], record, "the record has 151 tokens, the text 100"),
        (ids, record.sel(layer=[0]), "the record lacks layer 1"),
        (ids, record.assign_coords(policy=["another"]), "no settings called 'it'"),
    ]
    for text, wrong, words in records:
        with pytest.raises(TreeKVError, match=words):
            analysis.replay(llama, text, {"it": config}, retention=wrong)


def test_a_model_that_overflows_is_refused(ids):
    model = tiny.llama().half()
    model.lm_head.weight.data.mul_(1e5)
    for predict in (analysis.replay, analysis.measure):
        with pytest.raises(TreeKVError, match=r"the losses are not finite .*torch.float16\); compute in 'float32'"):
            predict(model, ids, {"tree": TreeKVConfig(cache_size=32, block_size=4)})
