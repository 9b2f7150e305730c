"""Both notebooks run on the real model, and what they show is what the analysis says."""

from __future__ import annotations

import pytest

import analysis
from app.runs.sample_text import sample_text
from tests.notebooks.executing import TOKENS, executed
from treekv import TreeKVConfig


def test_compare_policies_on_your_text(smollm2, tmp_path, monkeypatch) -> None:
    report = '{"error": table["error"].values.tolist(), "close": closeness.values.tolist(), "size": size}'
    figures, report = executed("compare_policies_on_your_text", report, tmp_path, monkeypatch)
    assert figures == 9
    model, tokenizer = smollm2
    captured = analysis.capture(model, tokenizer, sample_text()[:20_000], max_tokens=TOKENS)
    configs = {
        policy: TreeKVConfig(policy=policy, cache_size=report["size"], prefill="stream", block_size=8)
        for policy in ("tree", "streaming", "h2o", "tova")
    }
    lost = analysis.output_loss(captured, analysis.simulate(captured, configs))
    assert report["error"] == pytest.approx(lost["error"].mean(("layer", "query")).values.tolist(), rel=0.02)
    assert report["close"][0] > 0.9 and min(report["close"]) > 0.4


def test_choose_settings_and_generate(smollm2, tmp_path, monkeypatch) -> None:
    report = '{"settings": choice.config.to_dict(), "perplexity": perplexity, "steps": retention.attrs["steps"]}'
    figures, report = executed("choose_settings_and_generate", report, tmp_path, monkeypatch)
    assert figures == 2
    assert TreeKVConfig.load(tmp_path / "settings.json").to_dict() == report["settings"]
    assert report["settings"]["cache_size"] == TOKENS // 8
    # The last new token is never fed to the model.
    assert TOKENS < report["steps"] < TOKENS + TOKENS // 16
    perplexity = report["perplexity"]
    assert 1 < perplexity["full cache"] < min(perplexity["recommended"], perplexity["paper"]) < 200
