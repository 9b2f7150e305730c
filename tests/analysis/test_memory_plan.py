"""The largest cache that fits: found by trying every size, and the sizes of a model without its weights."""

from __future__ import annotations

import pytest
import torch

from analysis import capture
from analysis.memory_plan import LEAST, STEP, capture_bytes, model_sizes, plan, read_bytes
from analysis.memory_size import cache_bytes
from tests import tiny
from tests.families.tiny_models import build, configuration
from treekv import TreeKVConfig, TreeKVError


@pytest.fixture(scope="module")
def captured():
    return capture(tiny.llama(), None, tiny.tokens(64)[0], queries=4)


@pytest.mark.parametrize("kind", ["llama", "hybrid"])
def test_sizes_are_those_of_a_real_model(kind: str, hybrid) -> None:
    model = hybrid if kind == "hybrid" else tiny.llama()
    real, sizes = capture(model, None, tiny.tokens(64)[0], queries=4), model_sizes(model.config)
    assert sizes.model_layers == real.model_layers and (sizes.kv_heads, sizes.query_heads, sizes.head_dim) == (
        real.kv_heads, real.query_heads, real.head_dim,
    )  # fmt: skip
    assert sizes.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert sizes.weight_bytes("float32") == 4 * sizes.parameters


@pytest.mark.parametrize(("name", "layers", "states"), [("bamba", 2, 2), ("qwen3_moe", 2, 0)])
def test_hybrids_and_experts_in_float32_have_sizes(name: str, layers: int, states: int) -> None:
    config = configuration(name)
    config.dtype = "float32"
    sizes = model_sizes(config)
    assert (len(sizes.model_layers), sizes.states) == (layers, states)
    assert sizes.parameters == sum(parameter.numel() for parameter in build(name).parameters())


def test_a_model_that_cannot_be_run_without_weights_is_one_sentence() -> None:
    with pytest.raises(TreeKVError, match="the sizes of a 'dbrx' model show only when it computes with its weights"):
        model_sizes(configuration("dbrx"))


@pytest.mark.parametrize(("memory", "users"), [(200_000, 3), (90_000, 1), (1_000_000, 7)])
def test_it_is_the_largest_of_all_sizes_that_fit(captured, memory: int, users: int) -> None:
    found = plan(captured, memory=memory, users=users, context=2000)
    sizes = range(LEAST, 2000, STEP)
    fitting = [
        size
        for size in sizes
        if users * cache_bytes(captured, TreeKVConfig(cache_size=size, prefill="stream"), 2000) <= memory
    ]
    assert found.config == TreeKVConfig(cache_size=max(fitting), prefill="stream")
    assert found.request_bytes == cache_bytes(captured, found.config, 2000)
    assert found.users_full == memory // found.full_bytes


def test_where_all_fits_nothing_is_evicted(captured) -> None:
    found = plan(captured, memory=10**9, users=2, context=500)
    assert found.config.policy == "full" and found.request_bytes == found.full_bytes


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(memory=100, users=4), "100 B are too little: 4 caches of 16 tokens take"),
        (dict(memory=1e9, users=0), "users must be between 1 and"),
        (dict(memory=0), "memory must be more than 0"),
        (
            dict(memory=100, context=1000, make=lambda size: TreeKVConfig(policy="full", cache_size=size)),
            "100 B are too little: 1 full cache of 1,000 tokens takes .*; plan for .* or a policy that evicts",
        ),
        (
            dict(memory=100, make=lambda size: TreeKVConfig(policy="openvino", cache_size=size)),
            "100 B are too little: 1 cache of 128 tokens takes",
        ),
        (dict(memory=1e9, context=0), "context must be between 1 and 100,000,000 tokens, got 0"),
    ],
)
def test_what_cannot_be_planned_is_one_sentence(captured, options: dict, words: str) -> None:
    with pytest.raises(TreeKVError, match=words):
        plan(captured, **options)


@pytest.mark.parametrize(
    ("words", "number"),
    [("24GB", 24 * 10**9), ("16 gib", 2**34), ("512m", 512 * 10**6), ("1.5k", 1500), ("7B", 7), ("7000000", 7_000_000)],
)
def test_sizes_are_read(words: str, number: int) -> None:
    assert read_bytes(words) == number


@pytest.mark.parametrize("words", ["", "GB", "-1GB", "0", "1e9", "24XB"])
def test_what_is_no_size_is_refused(words: str) -> None:
    with pytest.raises(TreeKVError, match=r"such as 24 GB, 16\.5 GB or 512 MB"):
        read_bytes(words)


def test_a_forgotten_unit_is_named() -> None:
    with pytest.raises(TreeKVError, match="memory '8' has no unit, which makes it bytes"):
        read_bytes("8")


@pytest.mark.parametrize("gradients", [False, True])
def test_the_bytes_of_a_capture_are_those_of_its_tensors_and_its_peak_is_above_them(gradients: bool) -> None:
    with torch.inference_mode(False):
        model = tiny.llama()
        real = capture(model, None, tiny.tokens(64)[0], queries=4, sensitivity=gradients)
    states, gradient = (sum(x.nbytes for x in every) for every in ([*real.q, *real.k, *real.v], real.g or []))
    sizes = model_sizes(model.config)
    peak, file = capture_bytes(sizes, 64, gradients=gradients)
    assert file == states // 2 + gradient  # the file has float16
    assert peak > states + gradient + sizes.weight_bytes("float32")
    more, twice = capture_bytes(sizes, 128, gradients=gradients)
    assert twice == 2 * file and more > peak
