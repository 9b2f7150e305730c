"""Settings: defaults, validation in one sentence, round trip through the file."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from treekv import TreeKVConfig, TreeKVError, policies


def test_defaults_are_the_papers():
    config = TreeKVConfig()
    assert (config.policy, config.cache_size, config.sink_size, config.recent_size) == ("tree", 1024, 4, 508)
    assert (config.region_size, config.stride, config.positions, config.prefill) == (512, 1, None, "once")
    assert (config.block_size, config.window_size, config.trace) == (64, 64, False)


@pytest.mark.parametrize(
    "cache_size, sink, recent, block",
    [(1024, 4, 508, 64), (128, 4, 60, 16), (64, 4, 28, 8), (1000, 4, 496, 8), (101, 4, 46, 1), (16, 2, 6, 2)],
)
def test_default_block_is_the_largest_that_leaves_two_blocks_of_tree(cache_size, sink, recent, block):
    config = TreeKVConfig(cache_size=cache_size, sink_size=sink, recent_size=recent)
    assert config.block_size == block == config.window_size
    assert cache_size // block - -(-sink // block) - -(-recent // block) >= 2
    if block < 64 and cache_size % (2 * block) == 0:
        bigger = 2 * block
        assert cache_size // bigger - -(-sink // bigger) - -(-recent // bigger) < 2


@pytest.mark.parametrize(
    "settings, words",
    [
        (dict(policy="nonsense"), ["policy", "'nonsense'", "'tree'"]),
        (dict(cache_size=0), ["cache_size", "at least 1", "0"]),
        (dict(cache_size="128"), ["cache_size", "whole number", "'128'"]),
        (dict(cache_size=12.0), ["cache_size", "12.0"]),
        (dict(cache_size=True), ["cache_size", "True"]),
        (dict(sink_size=-1), ["sink_size", "-1"]),
        (dict(cache_size=16, sink_size=8, recent_size=7), ["tree region of 1", "16", "8", "7", "at least 2"]),
        (dict(stride=3), ["stride", "between 1 and 2", "3"]),
        (dict(positions="absolute"), ["positions", "'absolute'", "'rank'", "'original'", "'compressed'"]),
        (dict(prefill="blocks"), ["prefill", "'blocks'", "'stream'"]),
        (dict(cache_size=128, block_size=48), ["block_size", "divide", "128", "48"]),
        (dict(cache_size=128, block_size=64), ["block_size 64", "tree region of 0 blocks", "smaller"]),
        (dict(cache_size=128, block_size=256), ["block_size", "at most", "128", "256"]),
        (dict(window_size=0), ["window_size", "0"]),
        (dict(policy="streaming", cache_size=128, recent_size=60), ["recent_size", "124", "60"]),
        (dict(policy="streaming", cache_size=4), ["sink_size", "smaller", "4"]),
        (dict(trace="yes"), ["trace", "'yes'"]),
        (dict(seed=-3), ["seed", "-3"]),
        (dict(seed=2**70), ["seed", "between 0 and"]),
        (dict(policy=["tree"]), ["policy", "['tree']"]),
        (dict(cache_size=5), ["tree region of 1", "sink_size"]),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_each_inconsistency_is_one_sentence_with_field_and_value(settings, words):
    with pytest.raises(TreeKVError) as error:
        TreeKVConfig(**settings)
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_numpys_whole_numbers_are_whole_numbers():
    config = TreeKVConfig(cache_size=np.int64(128))
    assert type(config.cache_size) is int and config == TreeKVConfig(cache_size=128)


@pytest.mark.parametrize(
    "field", ["recent_size", "sink_size", "budgets", "positions", "importance", "kernel_size", "window_share"]
)
def test_an_array_is_no_setting(field):
    with pytest.raises(TreeKVError, match=f"{field} must be .*, got array"):
        TreeKVConfig(**{field: np.array([1, 2])})


def test_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TreeKVConfig().cache_size = 5


def test_file_round_trip(tmp_path):
    config = TreeKVConfig(cache_size=256, sink_size=3, stride=2, prefill="stream", block_size=7, trace=True, seed=9)
    config.save(tmp_path / "settings.json")
    assert TreeKVConfig.load(tmp_path / "settings.json") == config
    assert [path.name for path in tmp_path.iterdir()] == ["settings.json"]


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda s: s.update(cache_sise=5), ["unknown key", "'cache_sise'", "cache_size"]),
        (lambda s: s.update(version=99), ["newer", "99", "update"]),
        (lambda s: s.update(version="one"), ["version", "'one'"]),
        (lambda s: s.pop("format"), ["not a TreeKV settings file"]),
        (lambda s: s.update(cache_size=-1), ["cache_size", "-1"]),
    ],
)
def test_bad_files_are_refused(tmp_path, change, words):
    settings = TreeKVConfig().to_dict()
    change(settings)
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(settings))
    with pytest.raises(TreeKVError) as error:
        TreeKVConfig.load(path)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b"\xff\xfe"])
def test_what_is_not_settings_is_refused(tmp_path, content):
    path = tmp_path / "settings.json"
    path.write_bytes(content)
    with pytest.raises(TreeKVError, match=r"settings\.json"):
        TreeKVConfig.load(path)


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(TreeKVError, match=r"missing.json.*No such file"):
        TreeKVConfig.load(tmp_path / "missing.json")


def test_prefill_once_keeps_its_former_name_as_an_alias():
    config = TreeKVConfig(cache_size=128, prefill="tree")
    assert config.prefill == "once" and config == TreeKVConfig(cache_size=128, prefill="once")
    assert config.to_dict()["prefill"] == "once" and config.replace(prefill="tree") == config


@pytest.mark.parametrize("prefill", ["tree", "stream", "none"])
def test_a_settings_file_of_the_first_version(tmp_path, prefill):
    old = {
        "format": "treekv-settings", "version": 1, "policy": "h2o", "cache_size": 128, "sink_size": 0,
        "recent_size": 64, "stride": 2, "positions": "rank", "prefill": prefill, "block_size": 64, "window_size": 64,
        "trace": False, "seed": 0, "scope": 2, "importance": "attention", "budgets": None, "kernel_size": 7,
        "pooling": "max",
    }  # fmt: skip
    (tmp_path / "old.json").write_text(json.dumps(old))
    config = TreeKVConfig.load(tmp_path / "old.json")
    # The first version kept options that its policy ignored.
    now = "once" if prefill == "tree" else prefill
    assert config == TreeKVConfig(policy="h2o", cache_size=128, prefill=now, positions="rank")
    tree = TreeKVConfig.from_dict(old | {"policy": "tree", "sink_size": 4, "recent_size": 60, "block_size": 16})
    assert tree.stride == 2 and tree.kernel_size == 5


@pytest.mark.parametrize("policy", policies.names())
@pytest.mark.parametrize(
    "option, value",
    [
        ("stride", 2),
        ("scope", 3),
        ("scope_end", "clipped"),
        ("importance", "contribution"),
        ("kernel_size", 7),
        ("pooling", "max"),
        ("max_height", 3),
    ],
)
def test_options_of_other_policies_are_refused(policy, option, value):
    settings = {"policy": policy, "cache_size": 128, option: value}
    if option in policies.get(policy).heeded(TreeKVConfig(policy=policy)):
        assert getattr(TreeKVConfig(**settings), option) == value
        return
    with pytest.raises(TreeKVError, match=rf"{option} is an option of polic.* for policy '{policy}', got {value!r}"):
        TreeKVConfig(**settings)


def test_a_failed_save_leaves_the_old_file(tmp_path):
    with pytest.raises(TreeKVError, match="cannot write"):
        TreeKVConfig().save(tmp_path / "no such folder" / "settings.json")
    assert list(tmp_path.iterdir()) == []


def test_replace_derives_again_what_was_derived():
    config = TreeKVConfig(cache_size=1024)
    assert config.replace(cache_size=128) == TreeKVConfig(cache_size=128)
    assert config.replace(policy="streaming") == TreeKVConfig(policy="streaming", cache_size=1024)
    assert TreeKVConfig(recent_size=100).replace(cache_size=512).recent_size == 100
    with pytest.raises(TreeKVError, match="'cachesize'"):
        config.replace(cachesize=3)


@pytest.mark.parametrize("policy", policies.names())
def test_settings_to_compare_read_a_prompt_in_equal_blocks(policy):
    tree = TreeKVConfig(cache_size=128, prefill="stream")
    assert tree.block_size == 16 and TreeKVConfig(policy="streaming", cache_size=128).block_size == 64
    if policies.get(policy).evicts_decoding:  # the others refuse prefill "stream"
        assert tree.replace(policy=policy).block_size == 16
    assert tree.for_policy(policy).block_size == 16


def test_a_block_stays_where_it_fits():
    tree = TreeKVConfig(cache_size=128, prefill="stream")
    assert TreeKVConfig(cache_size=128, sink_size=0, recent_size=0).block_size == 64
    assert tree.replace(sink_size=0, recent_size=0).block_size == 16


def test_a_block_that_no_longer_fits_is_derived_anew():
    window = TreeKVConfig(policy="streaming", cache_size=128)
    assert window.block_size == 64
    assert window.replace(policy="tree") == TreeKVConfig(cache_size=128)
    assert TreeKVConfig(cache_size=128).replace(recent_size=80).block_size == 16
    assert TreeKVConfig(cache_size=128).replace(recent_size=88).block_size == 8


@pytest.mark.parametrize("digits", [17, 20, 4000, 5000])
@pytest.mark.parametrize("field", ["cache_size", "scope", "future_window"])
def test_a_number_that_no_cache_can_have_is_refused(field, digits):
    words = (
        rf"{field} must be a whole number between \d and 9007199254740991, got (10|a whole number of too many digits)"
    )
    with pytest.raises(TreeKVError, match=words) as found:
        TreeKVConfig(**{"cache_size": 64, field: 10**digits})
    assert len(str(found.value)) < 200
