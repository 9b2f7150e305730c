"""Heads of a layer that share what they keep of a prompt."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import analysis
from tests import tiny
from tests.reference.sharing import shared
from tests.treekv.cache.test_cache import compare
from treekv import TreeKVCache, TreeKVConfig, TreeKVError, policies
from treekv.cache import layer_group
from treekv.cache.slot_plan import padded_capacity
from treekv.policies.sharing import shared_slots

SETTINGS = [
    dict(policy="snapkv", window_size=5),
    dict(policy="pyramidkv", window_size=4),
    dict(policy="expected", sink_size=2),
    dict(policy="h2o", recent_size=5, after_prompt="keep"),
    dict(policy="tree", sink_size=2, recent_size=3, prompt_score="future", after_prompt="keep"),
]


def config_of(settings: dict, **more) -> TreeKVConfig:
    return TreeKVConfig(cache_size=16, share_heads=True, **settings, **more)


@given(st.data())
def test_shares_are_those_of_the_list(data) -> None:
    heads, n = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 12))
    numbers = st.lists(st.integers(0, 6), min_size=n, max_size=n)
    scores = data.draw(st.lists(numbers, min_size=heads, max_size=heads))
    slots = data.draw(st.integers(0, n))
    found = shared_slots(torch.tensor([scores], dtype=torch.float32) / 7, slots)[0].tolist()
    assert found == shared(scores, slots) and sum(found) == heads * slots


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_grouped_queries(settings, kv_heads) -> None:
    compare(tiny.llama(kv_heads=kv_heads), config_of(settings), [37, 1, 1, 6, 1])


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_what_is_held(llama, settings) -> None:
    cache = TreeKVCache(config_of(settings), llama.config)
    llama(tiny.tokens(60), past_key_values=cache)
    kept = torch.tensor([[(head >= 0).sum() for head in cache.kept_positions(layer)[0]] for layer in range(2)])
    total = 2 * 16 if settings["policy"] != "pyramidkv" else kept.sum(1)[0]
    assert kept.sum(1)[0] == total and kept.sum() == 4 * 16
    assert settings["policy"] == "h2o" or not (kept == kept[0, 0]).all()  # whose heads here look alike
    for token in tiny.tokens(3)[0]:
        llama(token[None, None], past_key_values=cache)
    assert cache.kept_tokens == kept.max() + 3
    channels = 2 * llama.config.head_dim * 4  # of a token of a head, in bytes
    assert cache.nbytes == sum(padded_capacity(int(own) + 3, None) for own in kept.flatten()) * channels


def test_no_head_is_padded_to_the_longest_when_they_decode_together(llama) -> None:
    config = TreeKVConfig(policy="snapkv", cache_size=62, window_size=4, share_heads=True)
    cache = TreeKVCache(config, llama.config)
    llama(tiny.tokens(300), past_key_values=cache)
    kept = [int((head >= 0).sum()) for layer in range(2) for head in cache.kept_positions(layer)[0]]
    assert len({padded_capacity(own + 2, None) for own in kept}) > 1, kept
    for token in tiny.tokens(2)[0]:
        llama(token[None, None], past_key_values=cache)
    held = [part.keys.shape[2] for layer in cache.layers for part in layer.parts]
    assert held == [padded_capacity(own + 2, None) for own in kept]


def test_an_interruption_while_heads_share_is_noticed(llama, monkeypatch, tmp_path) -> None:
    real, calls = layer_group.choose_shared, []

    def interrupted(*given):
        calls.append(given)
        if len(calls) == 2:  # in the last layer
            raise KeyboardInterrupt
        return real(*given)

    cache = TreeKVCache(config_of(SETTINGS[0]), llama.config)
    monkeypatch.setattr(layer_group, "choose_shared", interrupted)
    with pytest.raises(KeyboardInterrupt):
        llama(tiny.tokens(40), past_key_values=cache)
    with pytest.raises(TreeKVError, match="the last forward pass was interrupted"):
        cache.save(tmp_path / "it.treekv")
    with pytest.raises(TreeKVError, match=r"the last forward pass (did not finish|was interrupted)"):
        llama(tiny.tokens(1), past_key_values=cache)
    cache.reset()
    llama(tiny.tokens(40), past_key_values=cache)
    assert cache.kept_tokens > 16


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_other_policies_get_settings_that_are_possible(settings) -> None:
    config = TreeKVConfig(cache_size=128, share_heads=True, **settings)
    sharing = [name for name in policies.names() if config.for_policy(name).share_heads]  # none is refused
    assert {"snapkv", "pyramidkv", "expected", settings["policy"]} <= {*sharing} <= {row["policy"] for row in SETTINGS}
    assert TreeKVConfig.from_dict(config.to_dict()) == config


def test_a_policy_cannot_have_the_option_alone() -> None:
    class Mine(policies.Policy):
        name, options, evicts_decoding = "mine", ("share_heads",), False

        def select_prompt(self, settings, prompt):
            raise NotImplementedError

    with pytest.raises(TreeKVError, match="has the option 'share_heads', so it must define competing"):
        policies.register(Mine())


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_padded_row_gets_what_it_gets_alone(llama, settings) -> None:
    lengths, ids = [50, 33, 12], tiny.tokens(52, batch=3)
    mask = torch.stack([torch.arange(52) >= 50 - length for length in lengths]).long()
    together, config = TreeKVCache(config_of(settings), llama.config), config_of(settings)
    llama(ids[:, :50], attention_mask=mask[:, :50], past_key_values=together)
    both = llama(ids[:, 50:51], attention_mask=mask[:, :51], past_key_values=together).logits
    for row, length in enumerate(lengths):
        alone = TreeKVCache(config, llama.config)
        llama(ids[row : row + 1, 50 - length : 50], past_key_values=alone)
        own = llama(ids[row : row + 1, 50:51], past_key_values=alone).logits
        assert torch.allclose(both[row], own[0], atol=1e-4)
        for layer in range(2):
            kept = [[p for p in head if p >= 0] for head in together.kept_positions(layer)[row].tolist()]
            assert kept == [[p for p in head if p >= 0] for head in alone.kept_positions(layer)[0].tolist()]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_simulation_keeps_what_the_cache_keeps(llama, settings) -> None:
    config = config_of(settings, positions="original")
    captured = analysis.capture(llama, None, tiny.tokens(48)[0])
    evicted = analysis.simulate(captured, {"it": config}, prompt=40)["evicted_at"].values[0]
    cache = TreeKVCache(config.replace(trace=True), llama.config)
    llama(tiny.tokens(48)[:, :40], past_key_values=cache)
    # Layers above see what the full cache makes of the prompt, as it was attended to in full.
    for layer in range(2):
        kept = [[p for p in head if p >= 0] for head in cache.kept_positions(layer)[0].tolist()]
        assert kept == [[p for p in range(40) if one[p] < 0] for one in evicted[layer]]
        assert (cache.trace[layer].evicted_at[0].numpy() == evicted[layer][:, :40]).all()


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_saved_cache_goes_on(llama, settings, tmp_path) -> None:
    cache = TreeKVCache(config_of(settings), llama.config)
    llama(tiny.tokens(40), past_key_values=cache)
    cache.save(tmp_path / "it.treekv")
    loaded = TreeKVCache.load(tmp_path / "it.treekv", llama.config)
    cache.batch_repeat_interleave(2)
    expected = llama(tiny.tokens(3, batch=2, seed=5), past_key_values=cache).logits
    got = llama(tiny.tokens(3, batch=2, seed=5)[1:], past_key_values=loaded).logits
    assert torch.allclose(expected[1:], got, atol=1e-5)


def test_a_short_prompt_is_kept_whole(llama) -> None:
    cache = TreeKVCache(config_of(SETTINGS[0]), llama.config)
    llama(tiny.tokens(16), past_key_values=cache)
    assert cache.kept_tokens == 16


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(policy="tree", prompt_score="future"), "needs prefill 'once' and after_prompt 'keep', got"),
        (dict(policy="tree"), "share_heads is an option of policies 'tree' with prompt_score 'future', 'h2o', "),
        (dict(policy="tova"), "must be False for policy 'tova', got True"),
        (dict(policy="snapkv", share_heads=1), "share_heads must be true or false, got 1"),
        (dict(policy="snapkv", window_size=4, budgets=((8, 24), (16, 16))), "budgets give each head its own"),
    ],
)
def test_what_cannot_be_shared_is_refused(settings, message) -> None:
    with pytest.raises(TreeKVError) as caught:
        TreeKVConfig(**{"cache_size": 16, "share_heads": True, **settings})
    assert message in str(caught.value)
