"""What is recommended follows from the simulated numbers, keeps the budget, and can be used as it is."""

from __future__ import annotations

import numpy as np
import pytest

import analysis
from analysis.recommendation import decisions
from analysis.recommendation.decisions import QUESTIONS, detail_reach, sink_mass
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
def choice(run):
    return recommend(run, 64, questions=QUESTIONS)


def test_the_numbers_are_those_of_simulation_and_loss(run, choice):
    rows = choice.reasons
    assert rows["question"].values[0] == "baseline" and bool(rows["chosen"][0])
    base = TreeKVConfig(cache_size=64, prefill="stream", block_size=16)
    lost = output_loss(run, analysis.simulate(run, {"it": base}))
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


def test_the_total_stays_and_the_settings_run(sharp_llama, run, token_ids, choice):
    model = sharp_llama("treekv")
    assert choice.config.cache_size == 64 and choice.config.prefill == "once"
    sizes = [config.cache_size for config in choice.config.per_layer(2)]
    assert sum(sizes) == 128
    assert held_bytes(choice.config, model, token_ids) == choice.reasons.attrs["bytes"]
    stream = recommend(run, 64, prefill="stream").config
    assert stream.prefill == "stream" and held_bytes(stream, model, token_ids) == choice.reasons.attrs["bytes"]


def test_sinks_end_where_their_mass_ends(run, monkeypatch):
    mass = sink_mass(run)
    queries = np.unique(np.linspace(run.tokens // 2, run.tokens - 1, 16).astype(int)).tolist()
    slow = np.mean([run.weights(layer, [q])[:, 0, 3].mean().item() for layer in (0, 1) for q in queries])
    assert mass[3] == pytest.approx(slow, rel=1e-4) and len(mass) == 16
    made = np.full(16, 0.001)
    made[[0, 2]] = 0.2, 0.05
    monkeypatch.setattr(decisions, "sink_mass", lambda captured: made)
    monkeypatch.setattr(decisions, "CLOSE", 10.0)
    assert recommend(run, 64, questions=["sinks"]).config.sink_size == 3
    monkeypatch.setattr(decisions, "CLOSE", -10.0)  # as if the error rose
    refused = recommend(run, 64, questions=["sinks"])
    assert refused.config.sink_size == 4 and "rejected" in refused.sentences[0]


def test_one_share_of_recent_tokens_comes_from_the_spectrum(run):
    amplitude = analysis.spectrum(run, level=1)["amplitude"].sel(band="D1").mean(("layer", "head")).values.astype(float)
    reached = detail_reach(run, 4)
    assert amplitude[-reached:].sum() >= 0.9 * amplitude.sum() > amplitude[1 - reached :].sum()
    size = 136
    choice = recommend(run, size, questions=["recent"])
    settings = [str(setting) for setting in choice.reasons["setting"].values]
    share = min(max(reached, size / 8), 0.75 * size) / size
    known = [0.125, 0.25, 0.375, 0.5, 0.625, 0.75]
    assert share in known or f"{share:.1%} recent, from the spectrum" in settings
    assert f"the last {reached} tokens carry 90% of the amplitude of D1" in choice.sentences[0]


def test_the_share_from_the_spectrum_is_simulated(run, monkeypatch):
    monkeypatch.setattr(decisions, "detail_reach", lambda captured, sinks: 27)
    choice = recommend(run, 64, questions=["recent"])
    rows = {str(r): float(e) for r, e in zip(choice.reasons["setting"].values, choice.reasons["error"].values)}
    config = TreeKVConfig(cache_size=64, recent_size=23, prefill="stream", block_size=16)  # 27 with the sinks
    lost = output_loss(run, analysis.simulate(run, {"it": config}))
    assert rows["42.2% recent, from the spectrum"] == pytest.approx(float(lost["error"].mean()))


def test_errors_after_the_output_projection(sharp_llama, run):
    model = sharp_llama("treekv")
    choice = recommend(run, 64, questions=["scope"], model=model)
    base = TreeKVConfig(cache_size=64, prefill="stream", block_size=16)
    lost = output_loss(run, analysis.simulate(run, {"it": base}), model=model)
    assert choice.reasons["error"].values[0] == pytest.approx(float(lost["error"].mean()))
    assert choice.reasons["error"].values[0] != pytest.approx(
        float(recommend(run, 64, questions=[]).reasons["error"][0]), rel=1e-3
    )
    assert "after the output projection" in choice.figure.layout.xaxis.title.text


def test_bytes_and_targets(run):
    per_token = run.k[0].element_size() * 2 * 2 * 2 * run.k[0].shape[2]  # keys and values, 2 layers, 2 KV heads
    by_bytes = recommend(run, bytes=71 * per_token + 5, questions=[])
    assert by_bytes.config.cache_size == 64 and by_bytes.reasons.attrs["bytes"] == 65 * per_token
    assert recommend(run, bytes=71 * per_token, itemsize=2, questions=[]).config.cache_size == 136  # of 141
    reached = recommend(run, target={"mass": 0.6}, questions=[])
    sizes = reached.reasons.where(reached.reasons["question"] == "size", drop=True)
    met = sizes["mass"].values >= 0.6
    assert reached.config.cache_size == sizes["cache_size"].values[met].min()
    assert not met[sizes["cache_size"].values < reached.config.cache_size].any()
    low = recommend(run, target={"error": 0.9}, questions=[])
    assert low.reasons["error"].values[-1] <= 0.9


@pytest.mark.parametrize(("layers", "model"), [([3], "llama"), (None, "hybrid"), ([1], "hybrid")], ids=str)
def test_bytes_are_those_of_a_real_cache_of_the_model(hybrid, nbytes_of, token_ids, tmp_path, layers, model):
    network = hybrid if model == "hybrid" else tiny.llama(num_hidden_layers=4)
    part = analysis.capture(network, None, token_ids, queries=4, layers=layers)
    part = analysis.open(part.save(tmp_path / "part.nc"))
    little, *enough = (4_000, 9_000, 18_000) if model == "hybrid" else (8_000, 45_000, 60_000)
    for bytes in enough:
        choice = recommend(part, bytes=bytes, itemsize=4)
        held = nbytes_of(network, choice.config, 301)
        assert choice.reasons.attrs["bytes"] == held
        larger = choice.config.replace(cache_size=choice.config.cache_size + 8)
        assert held <= bytes < nbytes_of(network, larger, 301)
        assert f"({held:,} bytes)" in choice.sentences[-1]
    with pytest.raises(TreeKVError, match=rf"{little} bytes hold 1\d tokens of this model .* are needed") as refused:
        recommend(part, bytes=little, itemsize=4)
    least = int(str(refused.value).split("at least ")[1].split()[0])
    assert nbytes_of(network, TreeKVConfig(cache_size=16, block_size=4), 301) == least


def test_budgets_by_layer_are_not_asked_of_a_part_of_the_model(token_ids):
    part = analysis.capture(tiny.llama(num_hidden_layers=4), None, token_ids, queries=4, layers=[1, 3])
    choice = recommend(part, 64, questions=["layers"])
    assert choice.config.budgets is None and "layers" not in choice.reasons["question"].values
    assert choice.sentences[0].startswith("Budgets by layer: the same for all layers; only 2 of 4 layers")


def test_the_default_asks_only_what_won_in_real_runs(run):
    choice = recommend(run, 64)
    assert {str(q) for q in choice.reasons["question"].values} == {"baseline", "block"}
    paper = TreeKVConfig(cache_size=64)
    assert choice.config.replace(block_size=paper.block_size, window_size=paper.window_size) == paper


def test_the_figure_shows_every_candidate(choice):
    figure = choice.figure
    tried, chosen = figure.data
    rows = choice.reasons
    assert len(tried.x) + len(chosen.x) == rows.sizes["candidate"]
    np.testing.assert_allclose(sorted([*tried.x, *chosen.x]), np.sort(100 * rows["error"].values))
    assert len(chosen.x) == int(rows["chosen"].sum())
    assert "start: paper's defaults, 64 tokens" in figure.layout.meta["alt"]
    assert all("error" in sentence for sentence in choice.sentences)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (dict(), "one of budget, bytes and target, got none"),
        (dict(budget=64, bytes=3), "got budget and bytes"),
        (dict(budget=8), "at least 16 tokens, got 8"),
        (dict(budget=200), "at least 400 tokens to be judged; this one has 301"),
        (dict(bytes=100), "100 bytes hold 0 tokens"),
        (dict(target={"mass": 1.5}), "between 0 and 1, got 1.5"),
        (dict(target={"speed": 0.5}), "'speed'"),
        (dict(target={"mass": 0.99999}), "is not reached with"),
        (dict(budget=64, questions=["taste"]), "unknown question 'taste'"),
        (dict(budget=64, prefill="none"), "'once' or 'stream', got 'none'"),
    ],
)
def test_bad_requests_are_one_sentence(run, arguments, words):
    with pytest.raises(TreeKVError, match=words):
        recommend(run, **arguments)
