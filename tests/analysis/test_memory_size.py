"""Predicted bytes against those of a real cache, for every policy and treatment of the prompt."""

from __future__ import annotations

import pytest
import torch

from analysis import capture
from analysis.memory_size import cache_bytes, cache_bytes_by_context
from tests import tiny
from tests.policies_table import BOUNDED, TABLE
from treekv import TreeKVCache, TreeKVConfig, TreeKVError, policies

SETTINGS = [
    *(
        TreeKVConfig(policy=name, cache_size=max(96, TABLE[name].least), **options)
        for name in policies.names()
        for options in ({"window_size": 16},)
    ),
    *(
        TreeKVConfig(policy=name, cache_size=80, prefill=prefill)
        for name in (*BOUNDED, "full")
        for prefill in ("stream", "none")
    ),
    TreeKVConfig(policy="openvino", cache_size=80, sink_size=16, recent_size=16, interval=8),
    TreeKVConfig(policy="openvino", cache_size=80, sink_size=16, recent_size=16, interval=8, prefill="none"),
    TreeKVConfig(policy="openvino", cache_size=80, sink_size=16, recent_size=16, interval=8, prefill="stream"),
    TreeKVConfig(cache_size=100, prefill="stream", block_size=7),
    TreeKVConfig(cache_size=96, budgets="rising", block_size=8),
    TreeKVConfig(cache_size=96, budgets=(64, 128), prefill="stream"),
    TreeKVConfig(cache_size=96, budgets=((64, 128), (96, 96)), prefill="stream"),
    TreeKVConfig(cache_size=96, budgets=((64, 128), (128, 64)), recent_size="quarter", block_size=8),
    TreeKVConfig(cache_size=96, budgets=((64, 128), (128, 64)), recent_size="eighth", prompt_score="future"),
    TreeKVConfig(cache_size=96, prompt_score="future", after_prompt="keep"),
]
HISTORIES = {1: (12,), 50: (50, 102), 96: (97,), 130: (131, 150), 509: (509,)}  # by prompt: tokens at the ends


@pytest.fixture(scope="module")
def captured(llama):
    return capture(llama, None, tiny.tokens(64)[0], queries=4)


@pytest.mark.slow
@pytest.mark.parametrize("config", SETTINGS, ids=lambda c: f"{c.policy}-{c.prefill}-{c.cache_size}-{c.budgets}")
def test_bytes_equal_those_of_a_real_cache(llama, captured, config: TreeKVConfig) -> None:
    for prompt, ends in HISTORIES.items():
        cache = TreeKVCache(config, llama.config)
        ids = tiny.tokens(ends[-1], batch=2)
        llama(ids[:, :prompt], past_key_values=cache)
        read = prompt
        for tokens in ends:
            for t in range(read, tokens):
                llama(ids[:, t : t + 1], past_key_values=cache)
            read = tokens
            expected = cache_bytes(captured, config, tokens, prompt=prompt, batch=2, dtype="float32")
            assert expected == cache.nbytes, (prompt, tokens)


@pytest.mark.parametrize(("layers", "model"), [([3], "llama"), (None, "hybrid"), ([1], "hybrid")], ids=str)
@pytest.mark.parametrize(
    "config",
    [
        TreeKVConfig(policy="full"),
        TreeKVConfig(cache_size=24, block_size=4),
        TreeKVConfig(cache_size=24, budgets="rising", prefill="stream"),
        TreeKVConfig(policy="pyramidkv", cache_size=24, window_size=4),
    ],
    ids=lambda c: f"{c.policy}-{c.prefill}-{c.budgets}",
)
def test_layers_that_were_not_captured_count(hybrid, nbytes_of, layers, model: str, config: TreeKVConfig) -> None:
    network = hybrid if model == "hybrid" else tiny.llama(num_hidden_layers=4)
    part = capture(network, None, tiny.tokens(64)[0], queries=4, layers=layers)
    for prompt, tokens in ((1, 9), (18, 21), (100, 101), (100, 130)):
        expected = nbytes_of(network, config, tokens, prompt, batch=2)
        assert cache_bytes(part, config, tokens, prompt=prompt, batch=2, dtype="float32") == expected, (prompt, tokens)
    assert cache_bytes_by_context(part, {"it": config}, [64]).attrs["layers"] == 4


def test_old_files_count_captured_layers_only() -> None:
    part = capture(tiny.llama(num_hidden_layers=4), None, tiny.tokens(64)[0], queries=4, layers=[2, 3])
    whole = cache_bytes(part, TreeKVConfig(cache_size=24), 101)
    del part.attrs["model_layers"]
    assert cache_bytes(part, TreeKVConfig(cache_size=24), 101) == whole // 2


def test_bytes_depend_on_dtype_and_batch(captured) -> None:
    config = TreeKVConfig(cache_size=64)
    one = cache_bytes(captured, config, 1000, prompt=900)
    assert one == 65 * 2 * 2 * (8 + 8) * 2  # slots, layers, KV heads, channels of key and value, bytes
    assert cache_bytes(captured, config, 1000, prompt=900, batch=3) == 3 * one
    assert cache_bytes(captured, config, 1000, prompt=900, dtype="float32") == 2 * one
    assert cache_bytes(captured, config, 1000, prompt=900, dtype="float16") == one


def test_a_bounded_cache_does_not_grow_with_the_context_and_a_full_one_does(captured) -> None:
    tree, full = TreeKVConfig(cache_size=64), TreeKVConfig(policy="full")
    assert cache_bytes(captured, tree, 4096) == cache_bytes(captured, tree, 65536)
    assert cache_bytes(captured, full, 65536) == 16 * cache_bytes(captured, full, 4096)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"tokens": 0}, "tokens and batch must be at least 1, got 0 and 1"),
        ({"tokens": 9, "batch": 0}, "got 9 and 0"),
        ({"tokens": 9, "prompt": 10}, "prompt must be between 1 and the 9 tokens, got 10"),
        ({"tokens": 9, "dtype": "int8"}, "dtype must be one of .* got 'int8'"),
    ],
)
def test_impossible_requests_are_refused(captured, arguments: dict, words: str) -> None:
    with pytest.raises(TreeKVError, match=words):
        cache_bytes(captured, TreeKVConfig(cache_size=64), **arguments)


@pytest.mark.parametrize("config", SETTINGS[1:9], ids=lambda c: c.policy)
def test_long_prompts_are_computed_from_shorter_ones(captured, config: TreeKVConfig, monkeypatch) -> None:
    lengths = [1000, 1003, 1024, 1041]
    short = [cache_bytes(captured, config, n, prompt=n) for n in lengths]
    monkeypatch.setattr("analysis.memory_size.LONG", 1000)
    assert [cache_bytes(captured, config, n, prompt=n) for n in lengths] == short


def test_no_tensors_are_allocated(captured) -> None:
    """A context that no machine here could hold."""
    assert (
        cache_bytes(captured, TreeKVConfig(policy="full"), 10**9, batch=64)
        == -(-(10**9) // 64) * 64 * 64 * 2 * 2 * 16 * 2
    )
    assert torch.get_default_dtype() is torch.float32
