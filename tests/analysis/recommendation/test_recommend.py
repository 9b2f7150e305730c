"""What is recommended follows from the simulated numbers, keeps the budget, and can be used as it is."""

from __future__ import annotations

import pytest

import analysis
from analysis.recommendation.decisions import QUESTIONS
from analysis.recommendation.recommend import recommend
from analysis.retention.loss import output_loss
from tests import tiny
from treekv import TreeKVCache, TreeKVConfig, TreeKVError


def held_bytes(config, model, token_ids):
    cache = TreeKVCache(config, model.config)
    model(token_ids[None], past_key_values=cache)
    for token in token_ids[:4]:  # decoding: a short last block gives its room back, or what it lacks is filled
        model(token.view(1, 1), past_key_values=cache)
    return cache.nbytes


@pytest.fixture(scope="module")
def choice(captured):
    return recommend(captured, 64, questions=QUESTIONS)


def test_the_numbers_are_those_of_simulation_and_loss(captured, choice):
    rows = choice.reasons
    assert rows["question"].values[0] == "baseline" and bool(rows["chosen"][0])
    base = TreeKVConfig(cache_size=64, prefill="stream", block_size=16)
    lost = output_loss(captured, analysis.simulate(captured, {"it": base}))
    assert rows["error"].values[0] == pytest.approx(float(lost["error"].mean()))
    assert rows["mass"].values[0] == pytest.approx(float(lost["mass"].mean()))
    scope = rows.where(rows["question"] == "scope", drop=True)
    assert {str(setting) for setting in scope["setting"].values} == {"4 neighbours", "8 neighbours"}


def test_what_was_chosen_lowers_the_error_enough(choice):
    error = float(choice.reasons["error"][0])
    for question in ("scope", "recent", "layers"):
        rows = choice.reasons.where(choice.reasons["question"] == question, drop=True)
        best = float(rows["error"].min())
        chosen = rows["error"].values[rows["chosen"].values.astype(bool)]
        if best < 0.95 * error:
            assert chosen.tolist() == [best]
            error = best
        else:
            assert not len(chosen)


def test_the_total_stays_and_the_settings_run(sharp_llama, captured, token_ids, choice):
    model = sharp_llama("treekv")
    assert choice.config.cache_size == 64 and choice.config.prefill == "once"
    sizes = [config.cache_size for config in choice.config.per_layer(2)]
    assert sum(sizes) == 128
    assert held_bytes(choice.config, model, token_ids) == choice.reasons.attrs["bytes"]
    stream = recommend(captured, 64, prefill="stream").config
    assert stream.prefill == "stream" and held_bytes(stream, model, token_ids) == choice.reasons.attrs["bytes"]


def test_errors_after_the_output_projection(sharp_llama, captured):
    model = sharp_llama("treekv")
    choice = recommend(captured, 64, questions=["scope"], model=model)
    base = TreeKVConfig(cache_size=64, prefill="stream", block_size=16)
    lost = output_loss(captured, analysis.simulate(captured, {"it": base}), model=model)
    assert choice.reasons["error"].values[0] == pytest.approx(float(lost["error"].mean()))
    assert choice.reasons["error"].values[0] != pytest.approx(
        float(recommend(captured, 64, questions=[]).reasons["error"][0]), rel=1e-3
    )
    assert "after the output projection" in choice.figure.layout.xaxis.title.text


def test_bytes_and_targets(captured):
    per_token = (
        captured.k[0].element_size() * 2 * 2 * 2 * captured.k[0].shape[2]
    )  # keys and values, 2 layers, 2 KV heads
    by_bytes = recommend(captured, max_bytes=71 * per_token + 5, questions=[])
    assert by_bytes.config.cache_size == 64 and by_bytes.reasons.attrs["bytes"] == 65 * per_token
    assert recommend(captured, max_bytes=71 * per_token, itemsize=2, questions=[]).config.cache_size == 136  # of 141
    reached = recommend(captured, target={"mass": 0.6}, questions=[])
    sizes = reached.reasons.where(reached.reasons["question"] == "size", drop=True)
    met = sizes["mass"].values >= 0.6
    assert reached.config.cache_size == sizes["cache_size"].values[met].min()
    assert not met[sizes["cache_size"].values < reached.config.cache_size].any()
    low = recommend(captured, target={"error": 0.9}, questions=[])
    assert low.reasons["error"].values[-1] <= 0.9


@pytest.mark.parametrize(("layers", "model"), [([3], "llama"), (None, "hybrid"), ([1], "hybrid")], ids=str)
def test_bytes_are_those_of_a_real_cache_of_the_model(hybrid, nbytes_of, token_ids, tmp_path, layers, model):
    network = hybrid if model == "hybrid" else tiny.llama(num_hidden_layers=4)
    part = analysis.capture(network, None, token_ids, queries=4, layers=layers)
    part = analysis.open(part.save(tmp_path / "part.nc"))
    little, *enough = (4_000, 9_000, 18_000) if model == "hybrid" else (8_000, 45_000, 60_000)
    for bytes in enough:
        choice = recommend(part, max_bytes=bytes, itemsize=4)
        held = nbytes_of(network, choice.config, 301)
        assert choice.reasons.attrs["bytes"] == held
        larger = choice.config.replace(cache_size=choice.config.cache_size + 8)
        assert held <= bytes < nbytes_of(network, larger, 301)
        assert f"({held:,} bytes)" in choice.sentences[-1]
    with pytest.raises(TreeKVError, match=rf"{little} bytes hold 1\d tokens of this model .* are needed") as refused:
        recommend(part, max_bytes=little, itemsize=4)
    least = int(str(refused.value).split("at least ")[1].split()[0])
    assert nbytes_of(network, TreeKVConfig(cache_size=16, block_size=4), 301) == least


def test_the_default_asks_only_what_won_in_real_runs(captured):
    choice = recommend(captured, 64)
    assert {str(q) for q in choice.reasons["question"].values} == {"baseline", "block"}
    paper = TreeKVConfig(cache_size=64)
    assert choice.config.replace(block_size=paper.block_size, window_size=paper.window_size) == paper


@pytest.mark.parametrize(
    "arguments, words",
    [
        (dict(), "one of budget, bytes and target, got none"),
        (dict(budget=64, max_bytes=3), "got budget and bytes"),
        (dict(budget=8), "at least 16 tokens, got 8"),
        (dict(budget=200), "at least 400 tokens to be judged; this one has 301"),
        (dict(max_bytes=100), "100 bytes hold 0 tokens"),
        (dict(target={"mass": 1.5}), "between 0 and 1, got 1.5"),
        (dict(target={"speed": 0.5}), "'speed'"),
        (dict(target={"mass": 0.99999}), "is not reached with"),
        (dict(budget=64, questions=["taste"]), "unknown question 'taste'"),
        (dict(budget=64, prefill="none"), "'once' or 'stream', got 'none'"),
    ],
)
def test_bad_requests_are_one_sentence(captured, arguments, words):
    with pytest.raises(TreeKVError, match=words):
        recommend(captured, **arguments)
