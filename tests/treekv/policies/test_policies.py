"""The registry, what each policy says of itself, and options that belong together."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import treekv
from tests import policies_page, tiny
from tests.policies_table import TABLE
from treekv import SNAPKV_PRESETS, TreeKVCache, TreeKVConfig, TreeKVError, policies
from treekv.policies.streaming import Streaming
from treekv.policies.tree import Tree


def test_the_table_of_tests_has_a_row_for_each_policy():
    assert list(TABLE) == [
        name for name in policies.names() if type(policies.get(name)).__module__.startswith("treekv.")
    ]
    for name, row in TABLE.items():
        policy = policies.get(name)
        assert bool(row.decoding) == policy.evicts_decoding and bool(row.prompts) == policy.evicts_prompt


@pytest.mark.parametrize("name", [name for name, row in TABLE.items() if row.published])
def test_each_policy_names_stage_source_and_deviation(name):
    text = type(policies.get(name)).__doc__
    assert (
        "Paper:" in text and "Acts " in text and ("eviates" in text or "Ablation" in text.title() or "Beyond" in text)
    )


def test_a_policy_of_ones_own():
    """The complete example of CONTRIBUTING.md, as it stands there."""
    guide = (Path(__file__).parents[3] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    example = guide.split("```python\n")[1].split("```")[0]
    names: dict = {}
    try:
        exec(example, names)
        model = tiny.llama()
        cache = TreeKVCache(names["config"], model.config)
        model(tiny.tokens(30), past_key_values=cache)
        assert cache.kept_positions(0)[0, 0].tolist() == [0, 1, 14, 16, 18, 20, 22, 24, 26, 27, 28, 29]
        model(tiny.tokens(1), past_key_values=cache)
        assert cache.kept_positions(0)[0, 1].tolist() == [0, 1, 16, 18, 20, 22, 24, 26, 27, 28, 29, 30]
        with pytest.raises(TreeKVError, match="'sparse' is registered already"):
            treekv.register_policy(names["Sparse"]())
    finally:
        treekv.unregister_policy("sparse")


@pytest.mark.parametrize(
    "settings, words",
    [
        (dict(policy="h2o", scope=4), ["scope", "'tree'", "'h2o'", "4"]),
        (dict(policy="tova", importance="contribution"), ["importance", "'tova'"]),
        (dict(policy="tova", importance="late"), ["importance", "'tova'"]),
        (dict(policy="h2o", importance="similarity"), ["importance", "'tree'", "'h2o'", "'similarity'"]),
        (dict(importance="similarity", prompt_score="future"), ["'similarity'", "no attention", "'future'"]),
        (dict(scope_end="open"), ["scope_end", "'inside', 'clipped'", "'open'"]),
        (dict(importance="size"), ["importance", "'size'", "'contribution'"]),
        (dict(cache_size=16, sink_size=2, recent_size=10, scope=5), ["scope", "4 ranks", "5"]),
        (dict(cache_size=16, sink_size=4, recent_size=12, policy="h2o"), ["16", "4", "12", "'h2o'", "at least 1"]),
        (dict(policy="snapkv", sink_size=4), ["sink_size", "0", "'snapkv'"]),
        (dict(policy="snapkv", prefill="stream"), ["prefill", "'once'", "'stream'"]),
        (dict(policy="snapkv", cache_size=32), ["window_size", "smaller than cache_size (32)", "32"]),
        (dict(max_height=0), ["max_height", "between 1 and 62", "0"]),
        (dict(max_height=3, stride=2), ["max_height 3", "stride 2", "needs stride 1"]),
        (dict(policy="random", max_height=3), ["max_height", "'tree', 'tree_left'", "'random'", "3"]),
        (dict(kernel_size=4), ["kernel_size", "odd", "4"]),
        (dict(pooling="median"), ["pooling", "'median'"]),
        (dict(budgets="flat"), ["budgets", "'rising'", "'flat'"]),
        (dict(budgets=[1, 2.5]), ["budgets", "whole numbers"]),
        (dict(budgets=[1000, 1000]), ["budgets", "1024 x 2 = 2048", "2000"]),
        (dict(policy="pyramidkv", budgets="rising"), ["budgets", "'pyramidkv'"]),
    ],
    ids=str,
)
def test_options_that_do_not_fit(settings, words):
    with pytest.raises(TreeKVError) as error:
        TreeKVConfig(**settings)
    for word in words:
        assert word in str(error.value)


def test_budgets_keep_the_total_and_come_in_blocks():
    config = TreeKVConfig(cache_size=128, budgets="rising")
    sizes = [own.cache_size for own in config.per_layer(30)]
    assert sum(sizes) == 30 * 128 and sizes == sorted(sizes)
    assert abs(sizes[0] - 64) <= config.block_size and abs(sizes[-1] - 192) <= config.block_size
    assert all(size % config.block_size == 0 for size in sizes)
    falling = [own.cache_size for own in config.replace(budgets="falling").per_layer(30)]
    assert falling[0] > falling[-1] and sum(falling) == 30 * 128
    listed = TreeKVConfig(cache_size=100, budgets=[80, 120], prefill="stream")
    assert [own.cache_size for own in listed.per_layer(2)] == [80, 120]
    assert [own.recent_size for own in listed.per_layer(2)] == [36, 56]
    assert TreeKVConfig.from_dict(listed.to_dict()) == listed
    with pytest.raises(TreeKVError, match="each of the model's 3 compressed layers, got 2"):
        listed.per_layer(3)


def test_snapkv_presets_are_the_published_ones():
    library = TreeKVConfig(policy="snapkv", **SNAPKV_PRESETS["library"])
    assert library == TreeKVConfig(policy="snapkv")
    assert (library.window_size, library.kernel_size, library.pooling) == (32, 5, "average")
    longbench = TreeKVConfig(policy="snapkv", **SNAPKV_PRESETS["longbench"])
    assert (longbench.window_size, longbench.kernel_size, longbench.pooling) == (8, 7, "max")


def test_pyramid_budgets_are_the_published_arithmetic():
    config = TreeKVConfig(policy="pyramidkv", cache_size=128 + 32)
    budget = [policies.get("pyramidkv").prefix_budget(config, layer, 30) for layer in range(30)]
    assert budget[0] == 2 * 128 - 6 and budget[0] - budget[1] == (250 - 6) // 29 and budget[-1] == 250 - 29 * 8


def test_random_differs_between_layers_heads_and_seeds_and_repeats():
    model = tiny.llama()

    def kept(seed: int, layer: int) -> list:
        config = TreeKVConfig(policy="random", cache_size=12, sink_size=2, recent_size=2, seed=seed)
        cache = TreeKVCache(config, model.config)
        model(tiny.tokens(20), past_key_values=cache)
        for token in tiny.tokens(30)[0]:
            model(token.view(1, 1), past_key_values=cache)
        return cache.kept_positions(layer)[0].tolist()

    assert kept(0, 0) == kept(0, 0)
    assert len({str(kept(0, 0)[0]), str(kept(0, 0)[1]), str(kept(0, 1)[0]), str(kept(1, 0)[0])}) == 4


@pytest.mark.parametrize("name", [name for name in TABLE if policies.get(name).budgets_per_layer])
@pytest.mark.parametrize("budgets", ["rising", [96, 160]])
def test_budgets_go_with_every_policy_that_evicts(name, budgets):
    config = TreeKVConfig(policy=name, cache_size=128, budgets=budgets)
    sizes = [own.cache_size for own in config.per_layer(2)]
    assert sum(sizes) == 256 and sizes[0] < sizes[1]


def test_too_small_a_share_names_the_budgets():
    with pytest.raises(TreeKVError, match=r"budgets 'rising' give a layer 5 tokens"):
        TreeKVConfig(cache_size=10, budgets="rising", sink_size=4)


@pytest.mark.parametrize("name", policies.names())
@pytest.mark.parametrize(
    "settings",
    [{}, dict(scope=4, importance="contribution", budgets="rising"), dict(prefill="stream"), dict(recent_size=30)],
    ids=str,
)
def test_the_same_budget_under_every_other_policy(name, settings):
    config = TreeKVConfig(cache_size=128, **settings)
    other = config.for_policy(name)
    assert other.policy == name and other.cache_size == 128
    assert other.budgets == (config.budgets if policies.get(name).budgets_per_layer else None)
    assert (other == config) == (name == "tree")


def test_a_policy_that_acts_while_decoding_only():
    class DecodeOnly(Streaming):
        name = "decode only"
        evicts_prompt = False

    treekv.register_policy(DecodeOnly())
    try:
        model, ids = tiny.llama(), tiny.tokens(40)
        settings = dict(cache_size=12, prefill="none")
        caches = [TreeKVCache(TreeKVConfig(policy=p, **settings), model.config) for p in ("decode only", "streaming")]
        for cache in caches:
            model(ids[:, :20], past_key_values=cache)
        for token in ids[0, 20:]:
            logits = [model(token.view(1, 1), past_key_values=cache).logits for cache in caches]
            assert torch.equal(*logits)
    finally:
        treekv.unregister_policy("decode only")


@pytest.mark.parametrize("positions", ["rank", "original"])
@pytest.mark.parametrize(
    "settings",
    [
        *(dict(policy=name) for name in ("streaming", "tree_left", "random", "lacache", "keydiff", "lagkv", "cur")),
        dict(importance="similarity"),
    ],
    ids=str,
)
def test_no_weights_are_computed_where_none_are_needed(llama, monkeypatch, settings, positions):
    def refuse(*arguments):
        raise AssertionError("weights were computed")

    monkeypatch.setattr("treekv.attention.softmax.attention_weights", refuse)
    ids = tiny.tokens(60)
    for prefill in ("once", "stream"):
        cache = TreeKVCache(TreeKVConfig(cache_size=24, prefill=prefill, positions=positions, **settings), llama.config)
        llama(ids[:, :40], past_key_values=cache)
        for token in ids[0, 40:]:
            llama(token.view(1, 1), past_key_values=cache)
        assert cache.kept_tokens <= 24


def test_registering_a_class_is_refused():
    with pytest.raises(TreeKVError, match="an object of a subclass of Policy"):
        treekv.register_policy(Streaming)


@pytest.mark.parametrize("name", [{}, {"name": None}, {"name": 3}, {"name": ""}], ids=str)
def test_a_policy_without_a_name_is_refused(name):
    unnamed = type("Unnamed", (Nameless,), name)()
    with pytest.raises(TreeKVError, match=r"needs a name.*from Unnamed"):
        treekv.register_policy(unnamed)


class Nameless(policies.Policy):
    """A policy in which `name` was forgotten."""

    def evict(self, config, scores, count):
        raise NotImplementedError

    def select_prompt(self, config, prompt):
        raise NotImplementedError


def test_the_docs_list_the_policies_as_they_are():
    assert policies_page.PAGE.read_text(encoding="utf-8") == policies_page.page(), "run python -m tests.policies_page"
    assert policies_page.README.read_text(encoding="utf-8") == policies_page.readme(), (
        "run python -m tests.policies_page"
    )


def test_late_is_at_most_half_of_the_recent_tokens():
    tree = TreeKVConfig(cache_size=256, importance="late")
    delays = [tree.replace(recent_size=recent).delay for recent in (0, 1, 2, 3, 63, 64, 100)]
    assert delays == [0, 0, 1, 1, 31, 32, 32] and TreeKVConfig(cache_size=256).delay == 0
    heads = TreeKVConfig(cache_size=32, budgets=[[24, 40]], recent_size=[[7, 20]], importance="late").per_head(1, 2)
    assert [own.delay for own in heads[0]] == [3, 10]


def test_late_is_an_average():
    class Summing(Tree):
        name, by = "summing", policies.SUM

    treekv.register_policy(Summing())
    try:
        with pytest.raises(TreeKVError, match="'late' is an average, which policy 'summing' does not compare by"):
            TreeKVConfig(policy="summing", importance="late")
    finally:
        treekv.unregister_policy("summing")


def test_two_neighbours_reach_the_end_of_the_region_either_way():
    tree, config = policies.get("tree"), TreeKVConfig(cache_size=32)
    assert tree.contest(config, 32) == tree.contest(config.replace(scope_end="clipped"), 32)
    inside, clipped = (tree.contest(config.replace(scope=8, scope_end=end), 32) for end in ("inside", "clipped"))
    assert (inside.wrap, clipped.wrap) == (config.region_size - 6, config.region_size)
