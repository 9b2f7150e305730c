"""What settings become elsewhere: the engines' own rules hold, and what differs is said."""

from __future__ import annotations

import ast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.export import other_engines
from app.export.other_engines import OPENVINO_BLOCK, mlx, openvino, openvino_sizes, tensorrt_llm, translations
from treekv import TreeKVConfig, TreeKVError, policies

POLICIES = [name for name in policies.names() if name != "full"]


def test_the_papers_setting_in_openvino() -> None:
    found = openvino(TreeKVConfig(cache_size=1024))
    assert openvino_sizes(TreeKVConfig(cache_size=1024)) == (32, 512, 1024)
    assert "start_size=32" in found.code
    assert "recent_size=512" in found.code
    assert "max_cache_size=1024" in found.code
    assert "AggregationMode.NORM_SUM" in found.code
    assert "apply_rotation=True" in found.code
    assert found.notes[0].endswith("so 4 sinks, 508 recent and 1,024 tokens in total become 32, 512 and 1,024.")
    assert "Its scoring differs" in found.notes[1]


def test_sizes_that_fit_are_not_said_to_be_rounded() -> None:
    found = openvino(TreeKVConfig(cache_size=1024, sink_size=32, recent_size=480, positions="original"))
    assert "apply_rotation=False" in found.code
    assert not any("multiples of" in note for note in found.notes)


def test_what_stands_for_compressed_positions_is_said() -> None:
    found = openvino(TreeKVConfig(cache_size=1024, positions="compressed"))
    assert "apply_rotation=True" in found.code and any("cannot compress positions" in note for note in found.notes)


@given(
    policy=st.sampled_from(POLICIES),
    cache=st.integers(40, 5000),
    sinks=st.integers(0, 20),
    block=st.sampled_from([16, 32]),
)
def test_openvinos_rules_hold_for_every_setting(policy: str, cache: int, sinks: int, block: int) -> None:
    options = {} if policy in ("snapkv", "pyramidkv") else {"sink_size": sinks}
    config = TreeKVConfig(policy=policy, cache_size=cache, **options)
    start, recent, most = openvino_sizes(config, block)
    assert all(size > 0 and size % block == 0 for size in (start, recent, most))
    assert most > start + recent
    assert start >= config.sink_size
    assert abs(most - cache) <= block / 2 or most == max(3 * block, start + recent + block)


@pytest.mark.parametrize("policy", POLICIES)
def test_every_translation_is_python_or_a_command_and_says_what_differs(policy: str) -> None:
    config = TreeKVConfig(policy=policy, cache_size=256)
    found = translations(config)
    assert [one.engine for one in found] == ["OpenVINO GenAI", "TensorRT-LLM", "mlx-lm"]
    for one in found[:2]:
        ast.parse(one.code)
    assert all(note.endswith(".") for one in found for note in one.notes)
    assert any("scor" in note for note in found[0].notes)
    if policy != "streaming":
        assert "does not score tokens" in found[1].notes[0]
    else:
        assert "Your settings do the same" in found[1].notes[0]


def test_windows_take_the_budget_and_the_sinks() -> None:
    config = TreeKVConfig(policy="streaming", cache_size=512, sink_size=8)
    assert "max_attention_window=[512], sink_token_length=8" in tensorrt_llm(config).code
    assert "--max-kv-size 512" in mlx(config).code
    assert "always keeps the first 4 tokens; the number of sinks (8)" in mlx(config).notes[1]
    assert len(mlx(TreeKVConfig(policy="streaming", cache_size=512)).notes) == 1


def test_h2o_adds_up() -> None:
    assert "AggregationMode.SUM," in openvino(TreeKVConfig(policy="h2o", cache_size=256)).code


def test_what_evicts_nothing_has_nothing_to_set() -> None:
    full = TreeKVConfig(policy="full")
    assert translations(full) == []
    for one in (openvino, tensorrt_llm, mlx):
        with pytest.raises(TreeKVError, match="'full' evicts nothing"):
            one(full)
    with pytest.raises(TreeKVError, match="at least 1 token, got 0"):
        openvino(TreeKVConfig(cache_size=256), 0)
    assert other_engines.OPENVINO_BLOCK == OPENVINO_BLOCK == 32
