"""Compiled simulations against the same contests run in torch, with the ledger of the real cache."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import analysis
from analysis.retention import kernels, simulated_cache
from analysis.retention.simulate import simulate
from tests import tiny
from tests.policies_table import settings_of
from treekv import TreeKVConfig, policies

TOKENS = 150
FIELDS = ("evicted_at", "survivor")

SETTINGS = settings_of("decoding")


def synthetic(sharpness=1.0, group=2, dtype=torch.float32):
    """A capture of random queries, keys and values: 3 layers, 2 KV heads with `group` query heads each."""
    generator = torch.Generator().manual_seed(group)
    model = tiny.llama(num_hidden_layers=3, num_attention_heads=2 * group, num_key_value_heads=2)
    real = analysis.capture(model, None, tiny.tokens(TOKENS)[0], queries=1)
    made = {
        name: [torch.randn(part.shape, generator=generator).mul(factor).to(dtype) for part in getattr(real, name)]
        for name, factor in (("q", sharpness), ("k", 1.0), ("v", 1.0))
    }
    return analysis.Capture(**{**vars(real), **made})


def in_torch(monkeypatch, captured, configs, **arguments):
    with monkeypatch.context() as patch:
        patch.setattr(policies.Policy, "has_contest", False)
        return simulate(captured, configs, **arguments)


WAYS = [("stream", 0, 1), ("stream", 0, 7), ("stream", 50, 4), ("once", 0, 1), ("once", 77, 2), ("none", 50, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("prefill, prompt, block", WAYS)
@pytest.mark.parametrize(
    "sharpness, group, dtype", [(1, 2, torch.float32), (4, 4, torch.bfloat16), (10, 1, torch.float32)]
)
def test_compiled_rules_evict_as_in_torch(monkeypatch, prefill, prompt, block, sharpness, group, dtype):
    """With a sharpness of 10 nearly all attention is on one token."""
    captured = synthetic(sharpness, group, dtype)
    configs = {str(own): TreeKVConfig(cache_size=16, prefill=prefill, block_size=block, **own) for own in SETTINGS}
    found = simulate(captured, configs, prompt=prompt)
    expected = in_torch(monkeypatch, captured, configs, prompt=prompt)
    for name in configs:
        for field in FIELDS:
            assert (found[field].sel(policy=name) == expected[field].sel(policy=name)).all(), (name, field)
        assert (found["evicted_at"].sel(policy=name) >= 0).any()


@pytest.mark.slow
def test_vanishing_attention_is_computed_anew(monkeypatch):
    """Late queries see nothing but a token that one of the caches has evicted long ago."""
    captured = synthetic()
    for q, k in zip(captured.q, captured.k):
        k[..., 0], k[:, 5, 0] = 0, 1000
        q[:, :60, 0], q[:, 60:, 0] = -1, 1
    configs = {str(own): TreeKVConfig(cache_size=16, **own) for own in SETTINGS}
    configs["larger"] = TreeKVConfig(cache_size=140)
    expected = in_torch(monkeypatch, captured, configs)
    assert (expected["evicted_at"].sel(policy="larger")[..., 5] < 0).all()
    assert (expected["evicted_at"].sel(policy=str(SETTINGS[0]))[..., 5] >= 0).all()
    found = simulate(captured, configs)
    for field in FIELDS:
        assert found[field].equals(expected[field]), field


@pytest.mark.parametrize("prefill, prompt", [("none", 76), ("once", 0)])
@pytest.mark.slow
def test_ties_are_broken_as_in_torch(monkeypatch, prefill, prompt):
    captured = synthetic()
    for k in captured.k:
        k[:, 1::2] = k[:, ::2]  # in a prompt, two neighbours are seen by the same queries
        k[..., 1:] = 0  # so that there is nothing to round, and equals are equal
    configs = {str(own): TreeKVConfig(cache_size=16, prefill=prefill, **own) for own in SETTINGS}
    found, expected = (
        simulate(captured, configs, prompt=prompt),
        in_torch(monkeypatch, captured, configs, prompt=prompt),
    )
    for field in FIELDS:
        assert found[field].equals(expected[field]), field


def test_the_smallest_weights_do_not_depend_on_what_other_caches_keep(monkeypatch):
    """TOVA asks which weight is the smallest; beside a token that others hold it may be too small for a number."""
    captured = synthetic()
    logits = -torch.rand(TOKENS, generator=torch.Generator().manual_seed(0))
    logits[:60] = 4 * logits[:60] - 92
    logits[5] = 12
    for q, k, scaling in zip(captured.q, captured.k, captured.scaling):
        q.zero_(), k.zero_()
        k[..., 0] = logits / scaling
        q[:, :60, 0], q[:, 60:, 0] = -1, 1  # at first they look at those that are looked at least later
    alone = {"tova": TreeKVConfig(policy="tova", cache_size=16)}
    beside = alone | {"larger": TreeKVConfig(cache_size=100)}
    assert (simulate(captured, beside)["evicted_at"].sel(policy="larger")[..., 5] < 0).all()
    expected = in_torch(monkeypatch, captured, alone)["evicted_at"].sel(policy="tova")
    assert (expected[..., 5] < 60).all()
    for configs in (alone, beside):
        assert simulate(captured, configs)["evicted_at"].sel(policy="tova").equals(expected)


@pytest.mark.parametrize("tokens", [0, 1, 2, 3, 20])
def test_a_cache_may_be_much_larger_than_the_text(monkeypatch, tokens):
    whole = synthetic()
    shorter = {name: [part[:, :tokens] for part in getattr(whole, name)] for name in ("q", "k", "v")}
    texts = {"token_ids": whole.token_ids[:tokens], "token_text": whole.token_text[:tokens]}
    captured = analysis.Capture(**{**vars(whole), **shorter, **texts})
    configs = {
        policy: TreeKVConfig(policy=policy, cache_size=size)
        for policy, size in (("tree", 10**12), ("h2o", 10**12), ("tova", 4), ("streaming", 8))
    }
    for prompt in {0, tokens}:
        found = simulate(captured, configs, prompt=prompt)
        assert found.equals(in_torch(monkeypatch, captured, configs, prompt=prompt))
        assert (found["evicted_at"].sel(policy=["tree", "h2o"]) < 0).all()


def test_progress_adds_up_where_some_begin_later():
    seen = []
    configs = {way: TreeKVConfig(cache_size=16, prefill=way) for way in ("once", "stream", "none")}
    configs |= {"snapkv": TreeKVConfig(policy="snapkv", cache_size=16, window_size=4)}
    simulate(synthetic(), configs, prompt=70, progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen) and seen[-1] == (12 * TOKENS, 12 * TOKENS)


@pytest.mark.slow
def test_several_threads_may_simulate_at_once():
    captured = synthetic()
    configs = {str(own): TreeKVConfig(cache_size=16, **own) for own in SETTINGS}
    expected = simulate(captured, configs)
    with ThreadPoolExecutor(4) as threads:
        for found in threads.map(lambda _: simulate(captured, configs), range(8)):
            assert found.equals(expected)


def test_weights_may_exist_for_few_queries_at_a_time(monkeypatch):
    captured = synthetic()
    configs = {str(own): TreeKVConfig(cache_size=16, prefill="stream", block_size=3, **own) for own in SETTINGS}
    expected = simulate(captured, configs)
    calls = []
    monkeypatch.setattr(simulated_cache, "NUMBERS_AT_ONCE", 4 * (16 + simulated_cache.QUERIES_AT_ONCE) * 2)
    compute = simulated_cache.compute_logits
    monkeypatch.setattr(simulated_cache, "compute_logits", lambda *args: calls.append(args[-2:]) or compute(*args))
    found = simulate(captured, configs)
    assert found.equals(expected)
    assert min(last - first for first, last in calls) == 1 < max(last - first for first, last in calls) <= 2


@pytest.mark.parametrize("block", [1, 16])
def test_compiled_rules_evict_as_in_torch_on_a_real_text(monkeypatch, smollm2, block):
    from pydoc_data.topics import topics

    model, tokenizer = smollm2
    captured = analysis.capture(model, tokenizer, topics["assignment"], max_tokens=400, layers=[0, 15, 29])
    configs = {
        name: TreeKVConfig(policy=name, cache_size=64, prefill="stream", block_size=block)
        for name in ("tree", "h2o", "tova", "random")
    }
    found, expected = simulate(captured, configs), in_torch(monkeypatch, captured, configs)
    for field in FIELDS:
        # Sums are rounded otherwise, and of thousands of comparisons one may be that close.
        assert (found[field] == expected[field]).mean() > 0.99, field


def test_nan_does_no_harm():
    captured = synthetic()
    captured.k[1][:, 40:60] = float("nan")
    for own in SETTINGS:
        config = TreeKVConfig(cache_size=16, **own)
        found = simulate(captured, {"it": config})["evicted_at"].sel(policy="it")
        kept = (found < 0).sum("position")
        most = policies.of(config).capacity(config)  # of "cascade" whole buffers
        least = most - 2 * (config.interval - 1)  # a block of "openvino" may have begun
        assert (kept <= 16).all() and (kept >= least).all(), config
        assert (found[..., : config.sink_size] < 0).all() and (found[..., TOKENS - config.recent_size :] < 0).all()


def test_machine_code_that_cannot_be_cached_is_compiled_anew(monkeypatch):
    def njit(cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: function

    monkeypatch.setattr(kernels, "njit", njit)
    assert kernels.compiled()(abs)(-2) == 2
