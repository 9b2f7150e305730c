"""Each decision follows from the attention, the spectrum or the simulated errors."""

from __future__ import annotations

import numpy as np
import pytest

import analysis
from analysis.recommendation import decisions
from analysis.recommendation.decisions import detail_reach, sink_mass
from analysis.recommendation.recommend import recommend
from analysis.retention.loss import output_loss
from tests import tiny
from treekv import TreeKVConfig


def test_sinks_end_where_their_mass_ends(captured, monkeypatch):
    mass = sink_mass(captured)
    queries = np.unique(np.linspace(captured.tokens // 2, captured.tokens - 1, 16).astype(int)).tolist()
    slow = np.mean([captured.weights(layer, [q])[:, 0, 3].mean().item() for layer in (0, 1) for q in queries])
    assert mass[3] == pytest.approx(slow, rel=1e-4) and len(mass) == 16
    made = np.full(16, 0.001)
    made[[0, 2]] = 0.2, 0.05
    monkeypatch.setattr(decisions, "sink_mass", lambda captured: made)
    monkeypatch.setattr(decisions, "CLOSE", 10.0)
    assert recommend(captured, 64, questions=["sinks"]).config.sink_size == 3
    monkeypatch.setattr(decisions, "CLOSE", -10.0)  # as if the error rose
    refused = recommend(captured, 64, questions=["sinks"])
    assert refused.config.sink_size == 4 and "rejected" in refused.sentences[0]


def test_one_share_of_recent_tokens_comes_from_the_spectrum(captured):
    amplitude = (
        analysis.spectrum(captured, level=1)["amplitude"].sel(band="D1").mean(("layer", "head")).values.astype(float)
    )
    reached = detail_reach(captured, 4)
    assert amplitude[-reached:].sum() >= 0.9 * amplitude.sum() > amplitude[1 - reached :].sum()
    size = 136
    choice = recommend(captured, size, questions=["recent"])
    settings = [str(setting) for setting in choice.reasons["setting"].values]
    share = min(max(reached, size / 8), 0.75 * size) / size
    known = [0.125, 0.25, 0.375, 0.5, 0.625, 0.75]
    assert share in known or f"{share:.1%} recent, from the spectrum" in settings
    assert f"the last {reached} tokens carry 90% of the amplitude of D1" in choice.sentences[0]


def test_the_share_from_the_spectrum_is_simulated(captured, monkeypatch):
    monkeypatch.setattr(decisions, "detail_reach", lambda captured, sinks: 27)
    choice = recommend(captured, 64, questions=["recent"])
    rows = {str(r): float(e) for r, e in zip(choice.reasons["setting"].values, choice.reasons["error"].values)}
    config = TreeKVConfig(cache_size=64, recent_size=23, prefill="stream", block_size=16)  # 27 with the sinks
    lost = output_loss(captured, analysis.simulate(captured, {"it": config}))
    assert rows["42.2% recent, from the spectrum"] == pytest.approx(float(lost["error"].mean()))


def test_budgets_by_layer_are_not_asked_of_a_part_of_the_model(token_ids):
    part = analysis.capture(tiny.llama(num_hidden_layers=4), None, token_ids, queries=4, layers=[1, 3])
    choice = recommend(part, 64, questions=["layers"])
    assert choice.config.budgets is None and "layers" not in choice.reasons["question"].values
    assert choice.sentences[0].startswith("Budgets by layer: the same for all layers; only 2 of 4 layers")
