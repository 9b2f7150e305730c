"""The two choices of prompt_score "future", and the pooling, against lists."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import prompts
from tests.reference.policies import pooled
from treekv import TreeKVConfig, policies
from treekv.policies import Prompt
from treekv.policies.pooling import smooth
from treekv.policies.prompt_choice import choose_tokens, window_slots


@pytest.mark.parametrize("kind, kernel", [("forward", 12), ("forward", 1), ("forward", 5), ("average", 5), ("max", 3)])
@pytest.mark.parametrize("length", [1, 4, 30])
def test_pooling_is_what_lists_say(kind, kernel, length):
    values = torch.rand(2, 3, length)
    got = smooth(values, kernel, kind)
    assert got.shape == values.shape
    for row in range(2):
        for head in range(3):
            assert got[row, head].tolist() == pytest.approx(pooled(values[row, head].tolist(), kernel, kind), abs=1e-6)


def test_forward_pooling_lifts_what_follows_and_nothing_before():
    values = torch.zeros(1, 1, 20)
    values[..., 5] = 12.0
    assert smooth(values, 12, "forward")[0, 0].tolist() == pytest.approx([0.0] * 5 + [1.0] * 12 + [0.0] * 3)


@st.composite
def choices(draw):
    size = draw(st.integers(6, 24))
    sink = draw(st.integers(0, 3))
    recent = draw(st.integers(0, size - sink - 2))
    stride = draw(st.sampled_from([1, 2]))
    config = TreeKVConfig(
        cache_size=size,
        sink_size=sink,
        recent_size=recent,
        prompt_score="future",
        prompt_scope=draw(st.sampled_from([2, 3, 7, 32])),
        window_share=draw(st.sampled_from([0, 0.25, 1 / 3, 0.9])),
        stride=stride,
        max_height=draw(st.sampled_from([None, 1, 2])) if stride == 1 else None,
        pooling=draw(st.sampled_from(["forward", "average"])),
        kernel_size=draw(st.sampled_from([1, 3, 7])),
    )
    return config, size + draw(st.integers(1, 60)), draw(st.integers(0, 10**6))


@settings(max_examples=120)
@given(case=choices())
def test_tokens_are_chosen_as_on_lists(case):
    config, length, seed = case
    torch.manual_seed(seed)
    # Few values, so that many are equal.
    sums, future = (torch.randint(0, 6, (2, 2, length)).float() for _ in range(2))
    prompt = Prompt(length, sums, torch.ones(1, 1, length), 2, 0, 1, torch.device("cpu"), future)
    selection = choose_tokens(config, prompt, config.region_size)
    assert selection.kept.shape == (2, 2, config.cache_size)
    middle = sums[..., config.sink_size : length - config.recent_size]
    weights = smooth(middle, config.kernel_size, config.pooling)
    for row in range(2):
        for head in range(2):
            kept, won_by = prompts.choose(config, weights[row, head].tolist(), future[row, head].tolist())
            assert selection.kept[row, head].tolist() == kept
            assert selection.survivors[row, head].tolist() == [won_by.get(j, -1) for j in range(length)]
    untraced = choose_tokens(config, prompt._replace(traced=False), config.region_size)
    assert torch.equal(untraced.kept, selection.kept) and untraced.survivors is None


def test_shares_are_whole_tokens_and_leave_some_to_the_tree():
    config = TreeKVConfig(cache_size=128, recent_size="eighth", prompt_score="future")
    assert (config.recent_size, config.region_size, window_slots(config, 108)) == (16, 108, 27)
    assert window_slots(config.replace(window_share=0), 108) == 0
    assert window_slots(config.replace(window_share=0.999), 108) == 107


def test_defaults_follow_the_prompt_score():
    config = TreeKVConfig(cache_size=128, prompt_score="future")
    assert (config.window_size, config.pooling, config.kernel_size) == (32, "forward", 12)
    assert (config.prompt_scope, config.future_window, config.window_share) == (32, 256, 0.25)
    assert config.replace(prompt_score="window") == TreeKVConfig(cache_size=128)
    assert TreeKVConfig(cache_size=128).replace(prompt_score="future") == config
    assert TreeKVConfig.from_dict(config.to_dict()) == config
    assert config.replace(prefill="stream").replace(prefill="once") == config
    assert TreeKVConfig(policy="snapkv", pooling="forward").kernel_size == 12


@pytest.mark.parametrize("name", [name for name in policies.names() if name != "tree"])
def test_other_policies_get_their_own_defaults(name):
    config = TreeKVConfig(cache_size=128, prompt_score="future", window_share=0.5, future_window=8)
    assert config.for_policy(name) == TreeKVConfig(cache_size=128).for_policy(name)
    other = TreeKVConfig(policy="snapkv", cache_size=128, kernel_size=7)
    assert other.for_policy("tree") == TreeKVConfig(policy="snapkv", cache_size=128).for_policy("tree")
