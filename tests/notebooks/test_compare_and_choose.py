"""Both notebooks run on real words, and what they show is what the analysis says."""

from __future__ import annotations

import pytest
import torch

import analysis
from analysis.evaluation import stream_perplexity
from app.runs.sample_text import sample_text
from tests.notebooks.executing import TOKENS, executed
from treekv import TreeKVCache, TreeKVConfig, load_model


def test_compare_policies_on_your_text(shallow, tmp_path, monkeypatch) -> None:
    report = """{
        "error": table["error"].values.tolist(), "close": closeness.values.tolist(), "size": size, "words": words.value
    }"""
    figures, report = executed("compare_policies_on_your_text", report, tmp_path, shallow, monkeypatch)
    assert figures == 9
    assert "tree: share of heads that still keep each token" in report["words"]  # beside the slider
    model, tokenizer = load_model(str(shallow))
    captured = analysis.capture(model, tokenizer, sample_text()[:20_000], max_tokens=TOKENS)
    configs = {
        policy: TreeKVConfig(policy=policy, cache_size=report["size"], prefill="stream", block_size=8)
        for policy in ("tree", "streaming", "h2o", "tova")
    }
    lost = analysis.output_loss(captured, analysis.simulate(captured, configs))
    assert report["error"] == pytest.approx(lost["error"].mean(("layer", "query")).values.tolist(), rel=0.02)
    assert report["close"][0] > 0.9 and min(report["close"]) > 0.4


def test_choose_settings_and_generate(shallow, tmp_path, monkeypatch) -> None:
    report = '{"settings": choice.config.to_dict(), "perplexity": perplexity, "steps": retention.attrs["steps"]}'
    figures, report = executed("choose_settings_and_generate", report, tmp_path, shallow, monkeypatch)
    assert figures == 2
    assert TreeKVConfig.load(tmp_path / "settings.json").to_dict() == report["settings"]
    assert report["settings"]["cache_size"] == TOKENS // 8
    # The last new token is never fed to the model.
    assert TOKENS < report["steps"] < TOKENS + TOKENS // 16
    with torch.inference_mode(False):  # a model with gradients
        model, tokenizer = load_model(str(shallow))
        ids = tokenizer(sample_text(), verbose=False)["input_ids"]
        captured = analysis.capture(model, tokenizer, ids[:TOKENS], sensitivity=True)
    assert report["settings"] == analysis.recommend(captured, TOKENS // 8).config.to_dict()
    for name, config in {"full cache": TreeKVConfig(policy="full"), "paper": TreeKVConfig(cache_size=32)}.items():
        cache = TreeKVCache(config.replace(prefill="stream", block_size=8), model.config)
        streamed = stream_perplexity(model, ids[TOKENS : 2 * TOKENS], cache, chunk=64)
        assert report["perplexity"][name] == pytest.approx(streamed.perplexity_from(32), rel=1e-3)
