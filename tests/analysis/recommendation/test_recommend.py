"""What is recommended follows from the captured gradients, keeps the budget, and can be used as it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr

import analysis
from analysis.recommendation.curves import damage_curves, least_damage
from analysis.recommendation.recommend import PROPOSED, recommend
from analysis.recommendation.stages import COPYING, DEFAULTS, PROMPT, PROMPT_MULTIPLES, STREAM
from tests import tiny
from tests.reference import sensitivity as reference
from treekv import TreeKVCache, TreeKVConfig, TreeKVError, shipped


@pytest.fixture(scope="module")
def model(sharp_llama):
    return sharp_llama("treekv")


@pytest.fixture(scope="module")
def sensitive(model, token_ids):
    return captured_with_gradients(model, token_ids)


def captured_with_gradients(model, token_ids, **options):
    with torch.inference_mode(False):
        return analysis.capture(model, None, token_ids, queries=4, sensitivity=True, **options)


def llama(layers):
    with torch.inference_mode(False):
        return tiny.llama(num_hidden_layers=layers)


def held_bytes(config, model, token_ids):
    cache = TreeKVCache(config, model.config)
    model(token_ids[None], past_key_values=cache)
    for token in token_ids[:4]:  # decoding: a short last block gives its room back, or what it lacks is filled
        model(token.view(1, 1), past_key_values=cache)
    return cache.nbytes


def test_budgets_are_those_that_the_heads_need(sensitive):
    choice = recommend(sensitive, 64)
    wanted = analysis.budget_classes(analysis.need_budgets(analysis.need(sensitive), 64, least=16), 4, 4)
    np.testing.assert_array_equal(choice.budgets.values, wanted.values)
    sizes = [[own.cache_size for own in row] for row in choice.config.per_head(2, 2)]
    assert sizes == wanted.values.tolist() and sum(map(sum, sizes)) == 4 * 64
    assert choice.losses is None and "not predicted" in choice.sentences[1]
    assert choice.figure.data[0].z.shape == (2, 2)


def test_losses_are_replayed_beside_others(sensitive, model):
    choice = recommend(sensitive, 64, model=model)
    assert choice.losses["policy"].values.tolist() == [PROPOSED, DEFAULTS, "StreamingLLM", "H2O", "TOVA"]
    paper = TreeKVConfig(cache_size=64, prefill="stream", block_size=16)
    table = analysis.replay(model, sensitive, {"it": choice.config, "paper": paper})
    np.testing.assert_allclose(choice.losses.values[:2], analysis.extra_loss(table).values, rtol=1e-5)
    assert f"{choice.losses.values[0]:+.3f} nats a token" in choice.sentences[1]


def test_settings_that_come_with_treekv_are_among_the_others(sensitive, model, monkeypatch):
    budgets = [[64, 80], [40, 72]]
    monkeypatch.setattr(shipped, "names", lambda: ["mine-64", "other-64", "mine-prompt-64"])
    made = {"model_fingerprint": sensitive.attrs["model_fingerprint"], "made_by": "analysis.recommend, stage 'stream'"}
    of = {"mine-64": made, "other-64": made | {"model_fingerprint": "another"}}
    monkeypatch.setattr(shipped, "provenance", lambda name: of.get(name, made | {"made_by": "stage 'prompt'"}))
    config = TreeKVConfig(cache_size=64, prefill="stream", block_size=16, budgets=budgets)
    monkeypatch.setattr(TreeKVConfig, "load", lambda name: config)
    choice = recommend(sensitive, 64, model=model)
    assert choice.losses["policy"].values.tolist()[2:] == ["StreamingLLM", "H2O", "TOVA", "mine-64"]


def test_provenance_is_that_of_the_file():
    assert shipped.provenance("smollm2-128")["model"] == "SmolLM2-135M-Instruct"


def test_a_recommendation_that_does_not_suit_the_text_says_so(sensitive, model):
    # With one size only and none of the recipe these are the paper's defaults but for the recent tokens.
    choice = recommend(sensitive, 64, model=model, classes=1)
    cost = dict(zip(choice.losses["policy"].values.tolist(), choice.losses.values.tolist(), strict=True))
    better = [name for name in cost if cost[name] <= cost[PROPOSED] and name != PROPOSED]
    assert any("would be better" in sentence for sentence in choice.sentences) == bool(better)


def test_several_texts_count_alike(model, sensitive):
    other = captured_with_gradients(model, tiny.tokens(180, seed=8)[0])
    needs = [analysis.need(one) for one in (sensitive, other)]
    mean = sum(one / float(one.sum()) for one in needs) / 2
    wanted = analysis.budget_classes(analysis.need_budgets(mean, 64, least=16), 4, 4)
    np.testing.assert_array_equal(recommend([sensitive, other], 64).budgets.values, wanted.values)


def test_thorough_budgets_come_from_simulated_damages(sensitive):
    choice = recommend(sensitive, 64, thorough=True)
    base = TreeKVConfig(cache_size=64, prefill="stream", block_size=16, **STREAM)
    wanted = analysis.budget_classes(least_damage(damage_curves(sensitive, base), 64, 4), 4, 4)
    np.testing.assert_array_equal(choice.budgets.values, wanted.values)
    assert "simulated damage" in choice.sentences[0]


def test_the_settings_run(sensitive, model, token_ids):
    choice = recommend(sensitive, 64)
    config = choice.config
    assert (config.prefill, config.cache_size, config.recent_budgets) == ("stream", 64, "quarter")
    assert all(getattr(config, name) == value for name, value in STREAM.items() if name != "recent_size")
    assert held_bytes(config, model, token_ids) == choice.nbytes
    assert TreeKVConfig.from_dict(config.to_dict()) == config


@pytest.fixture(scope="module")
def long_model(sharp_llama):
    with torch.inference_mode(False):
        return sharp_llama("treekv")


def test_budgets_for_prompts_are_those_of_texts_and_of_copies(long_model, monkeypatch):
    monkeypatch.setattr("analysis.recommendation.stages.AFTER", after := 80)
    ids = tiny.tokens(300, seed=5)[0]
    text = captured_with_gradients(long_model, ids)
    choice = recommend(text, 64, stage="prompt", model=long_model)
    with torch.inference_mode(False):
        twice = analysis.capture(long_model, None, torch.cat((ids[:150], ids[:150])), sensitivity=True)
    base = TreeKVConfig(cache_size=64, **PROMPT)
    plain, copied = (
        damage_curves(one, base, prompt=prompt, multiples=PROMPT_MULTIPLES)
        for one, prompt in ((text, 300 - after), (twice, 150))
    )
    mixed = (1 - COPYING) * plain + COPYING * copied
    wanted = analysis.budget_classes(least_damage(mixed, 64, 4), 4, 4)
    np.testing.assert_array_equal(choice.budgets.values, wanted.values)
    assert choice.config.prompt_score == "future" and choice.config.prefill == "once"
    assert choice.losses["policy"].values.tolist() == [PROPOSED, DEFAULTS, "StreamingLLM", "H2O", "SnapKV"]
    table = analysis.replay(long_model, text, {"it": choice.config}, prompt=300 - after)
    assert float(choice.losses[0]) == pytest.approx(float(analysis.extra_loss(table)[0]), abs=1e-5)
    assert choice.config.after_prompt == "keep"
    assert held_bytes(choice.config.replace(after_prompt="evict"), long_model, ids) == choice.nbytes


def test_a_prompts_budget_is_bounded_by_what_is_read_twice(long_model, monkeypatch):
    monkeypatch.setattr("analysis.recommendation.stages.AFTER", 80)
    text = captured_with_gradients(long_model, tiny.tokens(300, seed=5)[0])
    with pytest.raises(TreeKVError, match="at most 75 tokens here, got 100"):
        recommend(text, 100, stage="prompt", model=long_model)
    tried = []

    def losses(self, configs):
        tried.extend(config.cache_size for config in configs.values())
        return xr.DataArray([1.0] * len(configs), dims="policy").assign_coords(policy=list(configs))

    monkeypatch.setattr("analysis.recommendation.recommend._Search.losses", losses)
    with pytest.raises(TreeKVError, match="is not reached with 64 tokens, the most that 300 captured tokens"):
        recommend(text, target={"loss": 0.5}, stage="prompt", model=long_model)
    assert tried == [64]


def test_damage_after_a_prompt_is_that_of_its_own_tokens(sensitive):
    base = TreeKVConfig(cache_size=64, **PROMPT)
    found = damage_curves(sensitive, base, prompt=200).sel(size=72)
    retention = analysis.simulate(sensitive, {"it": base.replace(cache_size=72)}, prompt=200)
    evicted = retention["evicted_at"].values[0]
    for layer, head in ((0, 1), (1, 0)):
        whole = reference.damage(sensitive, evicted[layer, head], layer, head)
        wanted = whole * (sensitive.tokens - 1) / (sensitive.tokens - 201)
        assert float(found.sel(layer=layer, head=head)) == pytest.approx(wanted, rel=1e-3)


def test_the_smallest_cache_that_costs_no_more(sensitive, model, monkeypatch):
    def losses(self, configs):
        # What settings cost falls with their size; a random model's loss does not.
        return xr.DataArray([10 / config.cache_size for config in configs.values()], dims="policy").assign_coords(
            policy=list(configs)
        )

    monkeypatch.setattr("analysis.recommendation.recommend._Search.losses", losses)
    choice = recommend(sensitive, target={"loss": 0.2}, model=model)
    assert choice.config.cache_size == 56  # of 16, 20, 24, 28, 32, 40, 48, 56, ...
    assert choice.sentences[0].startswith("Target: 56 tokens") and "48: 0.208" in choice.sentences[0]
    with pytest.raises(TreeKVError, match="is not reached with 128 tokens, the most that 301 captured tokens"):
        recommend(sensitive, target={"loss": 0.01}, model=model)


@pytest.mark.parametrize("kind", ["llama", "hybrid"])
def test_bytes_are_those_of_a_real_cache_of_the_model(hybrid, nbytes_of, token_ids, tmp_path, kind):
    network = hybrid if kind == "hybrid" else llama(4)
    text = captured_with_gradients(network, token_ids)
    text = analysis.open(text.save(tmp_path / "part.nc"))
    little, *enough = (4_000, 9_000, 18_000) if kind == "hybrid" else (8_000, 45_000, 60_000)
    for size in enough:
        choice = recommend(text, max_bytes=size, itemsize=4)
        held = nbytes_of(network, choice.config, 301)
        assert choice.nbytes == held <= size
        assert nbytes_of(network, TreeKVConfig(cache_size=choice.config.cache_size + 8, block_size=1), 301) > size
        assert f"{held:,} bytes" in choice.sentences[-1]
    with pytest.raises(TreeKVError, match=rf"{little} bytes hold 1\d tokens of this model .* are needed") as refused:
        recommend(text, max_bytes=little, itemsize=4)
    least = int(str(refused.value).split("at least ")[1].split()[0])
    assert nbytes_of(network, TreeKVConfig(cache_size=16, block_size=4), 301) == least


@pytest.mark.parametrize(
    "arguments, words",
    [
        (dict(), "one of budget, max_bytes and target, got none"),
        (dict(budget=64, max_bytes=3), "got budget and max_bytes"),
        (dict(budget=8), "at least 16 tokens, got 8"),
        (dict(budget=200), "at least 400 tokens to be judged; this one has 301"),
        (dict(max_bytes=100), "100 bytes hold 0 tokens"),
        (dict(target={"loss": 0.0}), "nats a token above the full cache"),
        (dict(target={"mass": 0.5}), "'mass'"),
        (dict(target={"loss": 0.1}), "needs the model"),
        (dict(budget=64, classes=0), "classes must be 1 to 6, got 0"),
        (dict(budget=32.5), "budget must be a whole number, got 32.5"),
        (dict(max_bytes=9000, itemsize=0), "at least 1 byte per number"),
        (dict(target=0.05), "nats a token above the full cache"),
        (dict(max_bytes=10**9), "a budget of 1,000,000,000 bytes, "),
        (dict(budget=64, stage="turn"), "'stream' or 'prompt', got 'turn'"),
        (dict(budget=64, stage="prompt"), "needs the model, which reads every text twice"),
    ],
)
def test_bad_requests_are_one_sentence(sensitive, arguments, words):
    with pytest.raises(TreeKVError, match=words):
        recommend(sensitive, **arguments)


def test_bad_captures_are_one_sentence(captured, sensitive, model, token_ids):
    with pytest.raises(TreeKVError, match="no gradients of the loss"):
        recommend(captured, 64)
    with pytest.raises(TreeKVError, match="no captures"):
        recommend([], 64)
    part = captured_with_gradients(model, token_ids, layers=[1])
    with pytest.raises(TreeKVError, match="layer 0 was not captured"):
        recommend(part, 64)
    other = captured_with_gradients(llama(3), token_ids)
    with pytest.raises(TreeKVError, match="the captures are of"):
        recommend([sensitive, other], 64)
    with pytest.raises(TreeKVError, match="the text has 301 tokens, and more than 512 are needed"):
        recommend(sensitive, 64, stage="prompt", model=model)
