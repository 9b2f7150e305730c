"""Settings in an address: what is written is read again, and what cannot be read is said."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.dashboard.session.settings import (
    COMPARED,
    _to_begin_with,
    as_by_default,
    decode,
    encode,
    join_compared,
    setting_label,
    with_changes,
)
from app.text.wording import settings_in_words
from treekv import TreeKVConfig, TreeKVError, policies
from treekv.resize import resized


@pytest.mark.parametrize(
    "config",
    [
        TreeKVConfig(),
        TreeKVConfig(policy="streaming", cache_size=128),
        TreeKVConfig(policy="full", cache_size=3),
        TreeKVConfig(cache_size=128, prefill="stream", block_size=16, trace=True, scope=4),
        TreeKVConfig(cache_size=128, max_height=5),
        TreeKVConfig(cache_size=96, budgets=(64, 128), prefill="stream"),
        TreeKVConfig(cache_size=96, budgets=((64, 128), (96, 96)), recent_size="quarter", prefill="stream"),
        TreeKVConfig(cache_size=128, budgets="rising"),
        TreeKVConfig(cache_size=64, budgets=((32, 96),), recent_size=((8, 20),), prefill="stream"),
        TreeKVConfig(cache_size=64, budgets=((64,),), prefill="stream"),
        TreeKVConfig(cache_size=64, budgets=(64,), after_prompt="keep"),
        TreeKVConfig(cache_size=64, sink_size=0, recent_size=10, block_size=1, window_size=9),
        TreeKVConfig(policy="snapkv", cache_size=64, window_size=8, kernel_size=7, pooling="max"),
        TreeKVConfig(cache_size=130, prompt_score="future", window_share=1e-05, recent_size="eighth"),
        TreeKVConfig(cache_size=131, prompt_score="future", window_share=0.4, future_window=9, seed=2),
    ],
    ids=lambda c: f"{c.policy}-{c.cache_size}-{c.budgets}",
)
def test_settings_come_back_from_an_address(config: TreeKVConfig) -> None:
    assert decode(encode(config)) == config


@given(
    policy=st.sampled_from(policies.names()),
    cache=st.integers(127, 3000),
    seed=st.integers(0, 2**63 - 1),
    positions=st.sampled_from(["rank", "original", "compressed"]),
)
def test_any_settings_come_back(policy: str, cache: int, seed: int, positions: str) -> None:
    config = TreeKVConfig(policy=policy, cache_size=cache, seed=seed, positions=positions)
    assert decode(encode(config)) == config


def test_defaults_are_left_out() -> None:
    assert encode(TreeKVConfig(cache_size=256)) == "tree,cache_size=256"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nothing", "policy must be one of"),
        ("tree,cache_size", "'cache_size'; give a field and its value"),
        ("tree,policy=h2o", "'policy=h2o'"),
        ("tree,colour=red", "'colour=red'"),
        ("tree,cache_size=2", "tree region"),
        ("tree,cache_size=many", "cache_size must be a whole number"),
    ],
)
def test_what_cannot_be_read_is_said(text: str, words: str) -> None:
    with pytest.raises(TreeKVError, match=words):
        decode(text)


def test_a_change_derives_anew_what_no_longer_fits() -> None:
    config = TreeKVConfig(cache_size=128, recent_size=100, block_size=8)
    changed = with_changes(config, cache_size=64)
    assert (changed.cache_size, changed.recent_size) == (64, 28)
    assert with_changes(config, policy="streaming").recent_size == 124
    with pytest.raises(TreeKVError, match="leaves a tree region of"):
        with_changes(config, cache_size=4)


def test_settings_join_the_compared_ones_while_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    six = [TreeKVConfig(cache_size=size) for size in range(64, 112, 8)]
    session = {COMPARED: six[:5]}
    monkeypatch.setattr("streamlit.session_state", session)
    assert join_compared(six[4]) and session[COMPARED] == six[:5]
    assert join_compared(six[5]) and session[COMPARED] == six
    assert not join_compared(TreeKVConfig(cache_size=128)) and session[COMPARED] == six
    assert join_compared(six[0])


def test_labels_name_letter_policy_and_size() -> None:
    assert setting_label(0, TreeKVConfig()) == "A TreeKV 1,024"
    assert setting_label(5, TreeKVConfig(policy="full")) == "F full cache"


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (TreeKVConfig(policy="full"), "full cache: every token is kept"),
        (
            TreeKVConfig(cache_size=64),
            "TreeKV: 64 tokens (4 sinks, 28 recent, 32 in the tree); a prompt is read whole and reduced at its end",
        ),
        (
            TreeKVConfig(policy="streaming", cache_size=64, prefill="stream", block_size=8),
            "StreamingLLM: 64 tokens (4 sinks, 60 recent); a prompt is read in blocks of 8 and reduced after each",
        ),
        (
            TreeKVConfig(policy="h2o", cache_size=64, prefill="none"),
            "H2O: 64 tokens (0 sinks, 32 recent, 32 chosen by it); a prompt is kept whole",
        ),
        (
            TreeKVConfig(policy="h2o", cache_size=64, prefill="none", positions="original"),
            "H2O: 64 tokens (0 sinks, 32 recent, 32 chosen by it); a prompt is kept whole; positions: original",
        ),
    ],
    ids=lambda value: value.policy if isinstance(value, TreeKVConfig) else "",
)
def test_settings_in_words(config: TreeKVConfig, words: str) -> None:
    assert settings_in_words(config) == words


def test_settings_that_come_with_treekv_are_named_like_their_file() -> None:
    config = TreeKVConfig.load("smollm2-128")
    assert setting_label(1, config) == "B smollm2-128"
    assert setting_label(1, config.replace(stride=2)) == "B TreeKV, budgets by head 128"


def test_recommended_settings_are_compared_with_others_as_people_use_them() -> None:
    config = TreeKVConfig.load("smollm2-128").replace(block_size=8)
    first, *others = _to_begin_with(config, 2048, None)
    assert first == config
    read = {"cache_size": 128, "prefill": "stream", "block_size": 8}
    assert others == [TreeKVConfig(policy=policy, **read) for policy in ("tree", "streaming", "h2o")]
    plain = TreeKVConfig(**read)
    assert _to_begin_with(plain, 2048, None) == [plain, plain.for_policy("streaming"), plain.for_policy("h2o")]


def test_budgets_follow_the_size() -> None:
    config = TreeKVConfig.load("smollm2-128")
    assert with_changes(config, cache_size=256) == resized(config, 256)
    table = ((40, 88), (60, 68))
    own = TreeKVConfig(cache_size=64, budgets=table, sink_size=30, recent_size=2, prefill="stream", block_size=1)
    assert with_changes(own, cache_size=32, sink_size=4).budgets == ((20, 44), (30, 34))


def test_what_does_not_fit_without_budgets_is_as_by_default() -> None:
    table = ((64, 64), (64, 64))
    own = TreeKVConfig(cache_size=64, recent_size=4, block_size=16, budgets=table, positions="original", seed=3)
    plain = as_by_default(own)
    assert (plain.budgets, plain.cache_size, plain.positions, plain.seed) == (None, 64, "original", 3)
    assert as_by_default(TreeKVConfig.load("smollm2-64")).positions is None
    assert as_by_default(TreeKVConfig(budgets="rising")).budgets == "rising"
