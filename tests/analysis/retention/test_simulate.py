"""The simulation against real runs: in the first layer nothing has been compressed yet, so they must agree."""

from __future__ import annotations

import pytest
import torch

import analysis
from analysis.retention.simulate import simulate
from tests import tiny
from tests.policies_table import settings_of
from treekv import TreeKVCache, TreeKVConfig, TreeKVError, policies, register_policy, unregister_policy
from treekv.policies.h2o import H2O
from treekv.policies.streaming import Streaming
from treekv.policies.tova import TOVA

TOKENS = 90


@pytest.fixture(scope="module")
def captured(llama):
    return analysis.capture(llama, None, tiny.tokens(TOKENS)[0], max_tokens=TOKENS, queries=4)


@pytest.fixture(scope="module")
def captured_once_each(llama):
    """A text without a repetition, in whose first layer no two values are equal but for rounding."""
    return analysis.capture(llama, None, tiny.distinct_tokens(TOKENS)[0], max_tokens=TOKENS, queries=4)


HEADS = ((10, 16), (14, 8))
SETTINGS = [
    *settings_of("decoding"),
    dict(sink_size=1, recent_size=3, budgets=(10, 14)),
    dict(sink_size=1, recent_size=3, budgets=HEADS),
    dict(sink_size=0, recent_size="quarter", budgets=((10, 14), (14, 10)), importance="contribution"),
    dict(sink_size=1, recent_size=((2, 9), (5, 1)), budgets=HEADS, importance="late"),
    dict(policy="random", sink_size=1, recent_size=3, budgets=HEADS),
    dict(sink_size=0, recent_size=1, max_height=2, budgets=HEADS),
    dict(policy="h2o", budgets=HEADS),
    dict(sink_size=1, recent_size=3, prompt_score="future"),
    dict(sink_size=1, recent_size="eighth", prompt_score="future", importance="contribution", budgets=HEADS),
]


@pytest.mark.slow
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("prefill, prompt, block", [("once", 0, 2), ("stream", 0, 5), ("once", 61, 2), ("none", 61, 2)])
def test_first_layer_equals_a_real_trace(llama, captured, captured_once_each, settings, prefill, prompt, block):
    config = TreeKVConfig(
        cache_size=12, positions="original", prefill=prefill, block_size=block, trace=True, **settings
    )
    cache = TreeKVCache(config, llama.config)
    captured = captured_once_each if policies.of(config).reads_contents else captured
    ids = captured.token_ids[None]
    if prefill == "stream":
        llama(ids, past_key_values=cache)
    else:
        if prompt:
            llama(ids[:, :prompt], past_key_values=cache)
        for token in ids[0, prompt:]:
            llama(token.view(1, 1), past_key_values=cache)
    result = simulate(captured, {"it": config}, prompt=prompt)
    assert result["evicted_at"].shape == (1, 2, 2, TOKENS)
    got = torch.tensor(result["evicted_at"].sel(policy="it", layer=0).values)
    assert torch.equal(got, cache.trace[0].evicted_at[0])
    got = torch.tensor(result["survivor"].sel(policy="it", layer=0).values)
    assert torch.equal(got, cache.trace[0].survivor[0])
    held = (torch.tensor(result["evicted_at"].values) < 0).sum(-1)
    usual = policies.get(config.policy).capacity(config)
    sizes = torch.tensor(settings.get("budgets", (usual, usual))).view(2, -1)
    most = sizes.clamp(min=prompt if prefill == "none" else 0)
    assert ((held <= most) & (held > most - config.interval)).all()


@pytest.mark.parametrize("policy", ["snapkv", "pyramidkv", "expected"])
def test_prompt_policies_keep_all_that_is_generated(llama, captured, policy):
    config = TreeKVConfig(policy=policy, cache_size=12, window_size=4, positions="original", trace=True)
    cache = TreeKVCache(config, llama.config)
    ids = tiny.tokens(TOKENS)
    llama(ids[:, :61], past_key_values=cache)
    llama(ids[:, 61:], past_key_values=cache)
    result = simulate(captured, {"it": config}, prompt=61)
    got = torch.tensor(result["evicted_at"].sel(policy="it", layer=0).values)
    assert torch.equal(got, cache.trace[0].evicted_at[0])
    assert (got[:, 61:] == -1).all() and (got[:, :61] == -1).sum() < 2 * 61


def test_several_settings_and_some_layers(captured):
    tree = TreeKVConfig(cache_size=12, sink_size=2, recent_size=4)
    seen = []
    result = simulate(
        captured,
        {"full": TreeKVConfig(policy="full"), "tree": tree},
        layers=[1, 1],
        progress=lambda done, total: seen.append((done, total)),
    )
    assert result["policy"].values.tolist() == ["full", "tree"] and result["layer"].values.tolist() == [1]
    assert (result["evicted_at"].sel(policy="full") == -1).all()
    alone = simulate(captured, {"tree": tree})
    assert (result["evicted_at"].sel(policy="tree", layer=1) == alone["evicted_at"].sel(policy="tree", layer=1)).all()
    assert seen[-1] == (2 * TOKENS, 2 * TOKENS) and seen == sorted(seen)


@pytest.mark.parametrize(
    "prefill, prompt, block",
    [("tree", 0, 1), ("stream", 40, 1), ("stream", 45, 2), ("stream", 0, 4), ("tree", 61, 2), ("none", 40, 1)],
)
@pytest.mark.slow
def test_settings_beside_others_are_simulated_as_alone(captured, prefill, prompt, block):
    """Also those that hold more, or come in larger blocks."""
    configs = {str(own): TreeKVConfig(cache_size=12, prefill=prefill, block_size=block, **own) for own in SETTINGS}
    configs["larger"] = TreeKVConfig(cache_size=30, prefill=prefill, block_size=3 * block)
    configs |= {way: TreeKVConfig(cache_size=12, prefill=way) for way in ("once", "stream", "none")}
    configs["snapkv"] = TreeKVConfig(policy="snapkv", cache_size=12, window_size=4)
    configs["full"] = TreeKVConfig(policy="full")
    together = simulate(captured, configs, prompt=prompt)
    for name, config in configs.items():
        alone = simulate(captured, {name: config}, prompt=prompt)
        for field in ("evicted_at", "survivor"):
            assert (together[field].sel(policy=name) == alone[field].sel(policy=name)).all(), (name, field)


class Moody(Streaming):
    """Uses more than ranks, unlike its base class: its own evict() replaces the contest."""

    name = "moody"

    def evict(self, config, scores, count):
        losers = torch.arange(count) + config.sink_size + scores.step % 3
        return policies.Evictions(losers.expand(*scores.shape, count))


class Loose(TOVA):
    """Keeps more of a prompt than `cache_size`; the excess is evicted with the first token that follows."""

    name = "loose"

    def select_prompt(self, config, prompt):
        return policies.Selection(torch.arange(prompt.length)[None, None, -config.cache_size - 20 :], None)


class DecodeOnly(H2O):
    name = "decode only"
    evicts_prompt = False


@pytest.mark.parametrize(
    "own, budgets",
    [(Loose(), None), (DecodeOnly(), None), (Moody(), None), (Moody(), ((12, 12), (8, 16)))],
    ids=lambda own: getattr(own, "name", str(own)),
)
def test_a_policy_of_ones_own_is_simulated_as_it_runs(llama, captured, own, budgets):
    register_policy(own)
    try:
        configs = {
            name: TreeKVConfig(policy=name, cache_size=12, positions="original", trace=True, budgets=budgets)
            for name in (own.name, "tree", "streaming")
        }
        result = simulate(captured, configs, prompt=61)
        for name, config in configs.items():
            cache = TreeKVCache(config, llama.config)
            llama(tiny.tokens(TOKENS)[:, :61], past_key_values=cache)
            for token in tiny.tokens(TOKENS)[0, 61:]:
                llama(token.view(1, 1), past_key_values=cache)
            got = torch.tensor(result["evicted_at"].sel(policy=name, layer=0).values)
            assert torch.equal(got, cache.trace[0].evicted_at[0]) and (got < 0).sum() == 2 * 12
    finally:
        unregister_policy(own.name)


@pytest.mark.parametrize("prefill, prompt", [("stream", 0), ("once", 61)])
def test_a_random_draw_is_the_same_whatever_layers_are_simulated(captured, prefill, prompt):
    config = TreeKVConfig(policy="random", cache_size=12, sink_size=2, recent_size=4, prefill=prefill)
    together = simulate(captured, {"it": config}, prompt=prompt)["evicted_at"]
    for layer in (0, 1):
        alone = simulate(captured, {"it": config}, layers=[layer], prompt=prompt)["evicted_at"]
        assert (alone.sel(layer=layer) == together.sel(layer=layer)).all()
    assert (together.sel(layer=0) != together.sel(layer=1)).any()


@pytest.fixture(scope="module")
def four():
    """A model of four layers, captured whole and one layer of it alone."""
    model = tiny.llama(num_hidden_layers=4)
    ids = tiny.tokens(TOKENS)[0]
    whole, part = (analysis.capture(model, None, ids, queries=4, layers=layers) for layers in (None, [3]))
    return whole, part


SHARES = [
    dict(policy="tree", budgets="rising"),
    dict(policy="tree", budgets="falling"),
    dict(policy="h2o", budgets=(16, 16, 24, 40)),
    dict(policy="random"),
    dict(policy="pyramidkv", window_size=4),
]


@pytest.mark.parametrize("settings", SHARES, ids=str)
@pytest.mark.parametrize("prompt", [0, 61])
def test_a_captured_layer_gets_what_it_gets_in_the_model(four, settings, prompt):
    whole, part = four
    config = TreeKVConfig(cache_size=24, **settings)
    expected = simulate(whole, {"it": config}, layers=[3], prompt=prompt)
    found = simulate(part, {"it": config}, prompt=prompt)
    assert found["evicted_at"].equals(expected["evicted_at"]) and found["survivor"].equals(expected["survivor"])
    if "budgets" in settings:
        held = (found["evicted_at"].sel(policy="it", layer=3) < 0).sum("position").values
        assert (held == {"rising": 36, "falling": 12}.get(settings["budgets"], 40)).all()


def test_the_layers_of_the_model_survive_files(four, tmp_path):
    whole, part = four
    assert part.layers == [3] and part.full_layers == [0, 1, 2, 3]
    config = TreeKVConfig(cache_size=24, budgets="rising")
    again = analysis.open(part.save(tmp_path / "part.nc"))
    assert again.full_layers == [0, 1, 2, 3] and again.model_layers == part.model_layers == whole.model_layers
    assert ((simulate(again, {"it": config})["evicted_at"] < 0).sum("position") == 36).all()
    with pytest.raises(TreeKVError, match="each of the model's 4 compressed layers, got 1"):
        simulate(again, {"it": TreeKVConfig(cache_size=24, budgets=(24,))})


def test_a_file_that_does_not_say_is_read_as_before(four):
    _, part = four
    old = analysis.Capture(**{**vars(part), "attrs": {}})
    assert old.full_layers == [3]
    found = simulate(old, {"it": TreeKVConfig(cache_size=24, budgets=(24,))})
    assert ((found["evicted_at"] < 0).sum("position") == 24).all()


def test_one_config_a_list_and_a_dictionary_are_the_same(captured):
    tree, window = TreeKVConfig(cache_size=32), TreeKVConfig(policy="streaming", cache_size=32)
    named = simulate(captured, {"tree": tree, "streaming": window})
    assert simulate(captured, [tree, window]).identical(named)
    assert simulate(captured, tree)["evicted_at"].identical(named["evicted_at"].sel(policy=["tree"]))


@pytest.mark.parametrize(
    "arguments, words",
    [
        (dict(configs={}), "no settings"),
        (dict(configs="tree"), "settings must be TreeKVConfig objects, got 'tree'"),
        (dict(configs=[TreeKVConfig()] * 2), "2 of the settings would be called 'tree 1024'"),
        (dict(configs={"a": TreeKVConfig()}, prompt=TOKENS + 1), f"{TOKENS} captured tokens, got {TOKENS + 1}"),
        (dict(configs={"a": TreeKVConfig()}, layers=[7]), "layer 7 was not captured"),
    ],
)
def test_bad_requests_are_one_sentence(captured, arguments, words):
    with pytest.raises(TreeKVError, match=words):
        simulate(captured, **arguments)


@pytest.mark.parametrize("positions", [None, "rank", "compressed"])
@pytest.mark.parametrize("policy", ["keydiff", "lagkv", "cur"])
def test_policies_that_read_keys_only_are_simulated_at_other_positions_too(
    llama, captured_once_each, policy, positions
):
    config = TreeKVConfig(policy=policy, cache_size=16, prefill="stream", block_size=4, positions=positions, trace=True)
    cache = TreeKVCache(config, llama.config)
    llama(captured_once_each.token_ids[None], past_key_values=cache)
    found = simulate(captured_once_each, {"it": config})["evicted_at"].sel(policy="it", layer=0).values
    assert torch.equal(torch.tensor(found), cache.trace[0].evicted_at[0])
