"""What settings become elsewhere: the engines' own rules hold, and what differs is said."""

from __future__ import annotations

import ast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.export.other_engines import engine_config, eviction_settings, mlx, openvino, tensorrt_llm, translations
from treekv import TreeKVConfig, TreeKVError, policies

POLICIES = [name for name in policies.names() if name != "full"]


def test_the_papers_setting_in_openvino() -> None:
    found = openvino(TreeKVConfig(cache_size=1024))
    assert eviction_settings(TreeKVConfig(cache_size=1024)) == {
        "start_size": 32,
        "recent_size": 512,
        "max_cache_size": 992,  # up to 31 tokens more are held
        "aggregation_mode": "NORM_SUM",
        "apply_rotation": False,
        "snapkv_window_size": 8,
    }
    assert "max_cache_size=992" in found.code and "aggregation_mode=AggregationMode.NORM_SUM" in found.code
    assert "scheduler.use_cache_eviction = True" in found.code
    assert found.notes[0].endswith("so 4 sinks, 508 recent and at most 1,024 tokens become 32, 512 and at most 1,023.")
    assert "Its scoring differs" in found.notes[1]
    assert "heap corruption" in found.notes[2]


def test_what_crashes_the_engine_is_never_set() -> None:
    for positions in ("rank", "original", "compressed"):
        found = openvino(TreeKVConfig(cache_size=1024, positions=positions))
        assert "apply_rotation=False" in found.code
        assert any("apply_rotation" in note for note in found.notes) == (positions != "original")


def test_settings_of_the_engines_own_policy_are_its_settings() -> None:
    config = TreeKVConfig(policy="openvino", cache_size=703, sink_size=32, recent_size=128, aggregation="sum")
    found = eviction_settings(config)
    assert (found["start_size"], found["recent_size"], found["max_cache_size"]) == (32, 128, 672)
    assert found["aggregation_mode"] == "SUM"
    assert engine_config(config) == config
    assert openvino(config).notes == ("Your settings do the same.",)
    assert openvino(config.replace(aggregation="norm_sum")).notes[1:] == (
        "It fails on prompts that are 1 to 7 tokens longer than start_size.",
    )


def test_blocks_of_the_engine_on_a_gpu_stay_and_others_are_rounded() -> None:
    gpu = TreeKVConfig(policy="openvino", cache_size=271, sink_size=16, recent_size=48, interval=16)
    assert engine_config(gpu) == gpu and "max_cache_size=256" in openvino(gpu).code
    near = engine_config(gpu.replace(interval=8))
    assert (near.interval, near.sink_size, near.recent_size, near.cache_size) == (32, 32, 64, 271)
    for policy in POLICIES:  # another policy's interval is not the engine's
        config = TreeKVConfig(policy=policy, cache_size=256)
        if "interval" in policies.get(policy).options and policy != "openvino":
            assert engine_config(config.replace(interval=4)).interval == 32


@pytest.mark.parametrize("prefill, words", [("stream", "read it in blocks"), ("none", "keep it whole")])
@pytest.mark.parametrize("policy", ["openvino", "tree"])
def test_how_a_prompt_is_read_is_the_engines(policy: str, prefill: str, words: str) -> None:
    config = TreeKVConfig(policy=policy, cache_size=256, prefill=prefill)
    assert engine_config(config).prefill == "once"
    assert engine_config(config) == config.replace(prefill="once").for_policy("openvino")
    notes = openvino(config).notes
    assert any("holds a prompt whole" in note and words in note for note in notes)
    assert "Your settings do the same." not in notes
    assert not any("holds a prompt whole" in note for note in openvino(config.replace(prefill="once")).notes)


@pytest.mark.parametrize(
    "config",
    [
        TreeKVConfig(policy="snapkv", cache_size=512),
        TreeKVConfig(policy="pyramidkv", cache_size=512),
        TreeKVConfig(cache_size=512, after_prompt="keep"),
        TreeKVConfig(policy="openvino", cache_size=512, prefill="stream", positions="rank"),
    ],
    ids=lambda config: config.policy,
)
def test_the_engine_and_the_policy_here_get_the_same(config: TreeKVConfig) -> None:
    near, fields = engine_config(config), eviction_settings(config)
    assert (near.policy, near.prefill, near.positions) == ("openvino", "once", "original")
    assert (fields["start_size"], fields["recent_size"], fields["snapkv_window_size"]) == (
        near.sink_size,
        near.recent_size,
        near.window_size,
    )
    assert fields["max_cache_size"] + near.interval - 1 == policies.get("openvino").capacity(near)
    if config.policy != "openvino":
        assert near == config.for_policy("openvino")
        assert any("also evicts what follows a prompt" in note for note in openvino(config).notes)


@pytest.mark.parametrize("budgets, parts", [("rising", "layers"), ([[200, 312], [256, 256]], "KV heads")])
def test_unequal_capacities_are_not_dropped_silently(budgets: object, parts: str) -> None:
    for one in translations(TreeKVConfig(cache_size=256, budgets=budgets)):
        assert one.notes[-1] == f"All {parts} get the same capacity there, while yours differ (budgets)."
    assert not any("budgets" in note for one in translations(TreeKVConfig(cache_size=256)) for note in one.notes)


@given(
    policy=st.sampled_from([name for name in POLICIES if name != "openvino"]),
    cache=st.integers(40, 5000),
    sinks=st.integers(0, 20),
)
def test_openvinos_rules_hold_for_every_setting(policy: str, cache: int, sinks: int) -> None:
    try:
        config = TreeKVConfig(policy=policy, cache_size=cache, sink_size=sinks)
    except TreeKVError:  # a policy without sinks
        config = TreeKVConfig(policy=policy, cache_size=cache)
    found = eviction_settings(config)
    start, recent, most = found["start_size"], found["recent_size"], found["max_cache_size"]
    assert all(size > 0 and size % 32 == 0 for size in (start, recent, most))
    assert most > start + recent and start >= config.sink_size
    held = most + 31
    assert cache - 32 < held <= max(cache, 127)


@pytest.mark.parametrize("policy", POLICIES)
def test_every_translation_is_python_or_a_command_and_says_what_differs(policy: str) -> None:
    config = TreeKVConfig(policy=policy, cache_size=256)
    found = translations(config)
    assert [one.engine for one in found] == ["OpenVINO GenAI", "TensorRT-LLM", "mlx-lm"]
    for one in found[:2]:
        ast.parse(one.code)
    assert all(note.endswith(".") for one in found for note in one.notes)
    assert policy == "openvino" or any("scor" in note for note in found[0].notes)
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
