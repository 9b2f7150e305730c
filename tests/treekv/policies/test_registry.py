"""Registering policies: names, titles, replacing, and what is refused."""

from __future__ import annotations

import pytest

import treekv
from treekv import Contest, Policy, TreeKVConfig, TreeKVError
from treekv.policies import NOTHING, registry


class Mine(Policy):
    name = "mine"
    by = NOTHING

    def contest(self, settings, capacity):
        return Contest(self.by, settings.sink_size)

    def select_prompt(self, settings, prompt):
        raise NotImplementedError


@pytest.fixture
def mine():
    policy = Mine()
    treekv.register_policy(policy)
    yield policy
    treekv.unregister_policy("mine")


def test_a_registered_policy_is_found_by_name(mine):
    assert registry.get("mine") is mine and treekv.policy_names()[-1] == "mine"
    assert treekv.policy_title("mine") == "mine" and treekv.policy_title("streaming") == "StreamingLLM"
    assert TreeKVConfig(policy="mine", cache_size=16).policy == "mine"


def test_a_policy_is_replaced_only_on_request(mine):
    with pytest.raises(TreeKVError, match=r"'mine' is registered already; .*replace=True"):
        treekv.register_policy(Mine())
    other = Mine()
    treekv.register_policy(other, replace=True)
    assert registry.get("mine") is other and treekv.policy_names().count("mine") == 1


def test_what_is_not_registered_cannot_be_removed():
    with pytest.raises(TreeKVError, match="'mine'"):
        treekv.unregister_policy("mine")


@pytest.mark.parametrize(
    "body, words",
    [
        ({"contest": Policy.contest}, "neither contest.. nor evict"),
        ({"options": ("size",)}, "names the option 'size'; options are stride"),
    ],
)
def test_an_incomplete_policy_is_refused(body, words):
    with pytest.raises(TreeKVError, match=words):
        treekv.register_policy(type("Incomplete", (Mine,), body)())


def test_what_is_compared_says_whether_attention_is_needed():
    for name in ("full", "tree_left", "streaming", "random"):
        assert not registry.get(name).uses_attention
    for name in ("tree", "h2o", "snapkv", "pyramidkv"):
        assert registry.get(name).uses_attention and registry.get(name).accumulates
    assert registry.get("tova").uses_attention and not registry.get("tova").accumulates
    similar = registry.of(treekv.TreeKVConfig(importance="similarity"))
    assert not similar.uses_attention and registry.of(treekv.TreeKVConfig()) is registry.get("tree")
    for policy in [similar, *map(registry.get, treekv.policy_names())]:
        assert not ((policy.has_contest and policy.reads_contents) or (policy.uses_attention and policy.reads_contents))
