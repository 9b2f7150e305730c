"""Variants of a policy: other default sizes under a name, which the settings keep."""

from __future__ import annotations

import pytest

import treekv
from tests.reference.policies import usual_sizes
from treekv import SNAPKV_PRESETS, TreeKVConfig, TreeKVError, policies
from treekv.policies import PAPER_ALLOCATION

PAPER = TreeKVConfig(policy="h2o", variant="paper")


@pytest.mark.parametrize("cache_size", [12, 17, 128, 1024])
@pytest.mark.parametrize(
    "policy, variant",
    [
        ("tree", "published"),
        ("streaming", "published"),
        *[(policy, variant) for policy in ("h2o", "tova") for variant in ("published", "paper")],
        ("keydiff", "paper"),
    ],
)
def test_sizes_are_those_of_the_papers(policy, variant, cache_size):
    config = TreeKVConfig(policy=policy, variant=variant, cache_size=cache_size)
    assert (config.sink_size, config.recent_size) == usual_sizes(policy, variant, cache_size)


@pytest.mark.parametrize("policy", ["h2o", "tova"])
def test_the_papers_allocation_is_the_trees(policy):
    sizes = ("sink_size", "recent_size", "region_size")
    tree, other = TreeKVConfig(), TreeKVConfig(policy=policy, variant="paper")
    assert [getattr(other, size) for size in sizes] == [getattr(tree, size) for size in sizes] == [4, 508, 512]


def test_given_sizes_win_and_the_others_follow_the_variant():
    given = TreeKVConfig(policy="tova", variant="paper", cache_size=64, sink_size=1)
    assert (given.sink_size, given.recent_size) == (1, 31)
    assert given.replace(cache_size=32).recent_size == 15


def test_a_change_of_the_variant_derives_the_sizes_again():
    published = PAPER.replace(variant="published")
    assert published == TreeKVConfig(policy="h2o") and published.replace(variant="paper") == PAPER
    assert PAPER.replace(cache_size=128) == TreeKVConfig(policy="h2o", variant="paper", cache_size=128)
    snapkv = TreeKVConfig(policy="snapkv", variant="longbench")
    assert snapkv.replace(variant="published") == TreeKVConfig(policy="snapkv", **SNAPKV_PRESETS["library"])


def test_snapkvs_variant_is_its_other_preset():
    named, given = TreeKVConfig(policy="snapkv", variant="longbench"), SNAPKV_PRESETS["longbench"]
    assert {field: getattr(named, field) for field in given} == given
    assert named == TreeKVConfig(policy="snapkv", variant="longbench", **given)
    assert TreeKVConfig(policy="snapkv", variant="longbench", kernel_size=5).kernel_size == 5


def test_another_policy_has_the_variant_too_or_none():
    assert PAPER.for_policy("tova").variant == "paper"
    for name in ("tree", "streaming", "snapkv", "full"):
        assert PAPER.for_policy(name).variant == "published"
    assert PAPER.for_policy("tree") == TreeKVConfig()


def test_files_keep_the_variant_and_files_without_one_are_as_published(tmp_path):
    PAPER.save(tmp_path / "paper.json")
    assert TreeKVConfig.load(tmp_path / "paper.json") == PAPER
    older = TreeKVConfig(policy="h2o").to_dict()
    del older["variant"]
    assert TreeKVConfig.from_dict(older) == TreeKVConfig(policy="h2o")


def test_budgets_for_each_layer_keep_its_proportions():
    layers = TreeKVConfig(policy="h2o", variant="paper", cache_size=128, budgets=[96, 160]).per_layer(2)
    assert [(own.sink_size, own.recent_size) for own in layers] == [(4, 44), (4, 76)]


@pytest.mark.parametrize(
    "settings, words",
    [
        (dict(policy="h2o", variant="best"), "'published' or 'paper' for policy 'h2o', got 'best'"),
        (dict(variant="paper"), "variant must be 'published' for policy 'tree', got 'paper'"),
        (dict(policy="snapkv", variant="library"), "'published' or 'longbench' for policy 'snapkv', got 'library'"),
        (dict(policy="tova", variant=None), "'published' or 'paper' for policy 'tova', got None"),
    ],
)
def test_an_unknown_variant_is_refused(settings, words):
    with pytest.raises(TreeKVError, match=words):
        TreeKVConfig(**settings)


def test_titles_say_the_variant_while_the_sizes_are_its_own():
    assert PAPER.title == "H2O, paper's allocation" == treekv.policy_title("h2o", "paper")
    assert TreeKVConfig(policy="h2o").title == "H2O" == PAPER.replace(sink_size=0).title
    assert TreeKVConfig(policy="snapkv", variant="longbench").title == "SnapKV, as on LongBench"
    with pytest.raises(TreeKVError, match="'tree'"):
        treekv.policy_title("tree", "paper")


def test_a_policy_of_ones_own_with_a_variant():
    class Own(type(policies.get("h2o"))):
        name, variants = "own", {"shared": PAPER_ALLOCATION}

    treekv.register_policy(Own())
    try:
        assert TreeKVConfig(policy="own", variant="shared").sink_size == 4
        Own.options = ()
        with pytest.raises(TreeKVError, match="has variants, so its options must list 'variant'"):
            treekv.register_policy(Own(), replace=True)
    finally:
        treekv.unregister_policy("own")
