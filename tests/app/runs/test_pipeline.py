"""The stages of a run are shown in order, and its artifacts are those of the analysis."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

import numpy as np
import pytest
import torch

import analysis
from app.runs import pipeline
from tests import tiny
from tests.app.conftest import silent_stage, words_tokenizer
from treekv import TreeKVConfig


@pytest.mark.slow
def test_artifacts_are_those_of_the_analysis_and_stages_report_progress() -> None:
    torch.manual_seed(0)
    model, ids = tiny.llama(), tiny.tokens(256)[0]
    seen: list[tuple[str, list[tuple[int, int]]]] = []

    @contextlib.contextmanager
    def stage(title: str) -> Iterator[pipeline.Progress]:
        seen.append((title, []))
        yield lambda done, total: seen[-1][1].append((done, total))

    configs = {"full": TreeKVConfig(policy="full"), "tree": TreeKVConfig(cache_size=32, prefill="stream")}
    found = pipeline.analyse(model, words_tokenizer(), ids, configs, stage, layers=[1])
    assert [title.split()[0] for title, _ in seen] == ["Capturing", "Splitting", "Testing", "Simulating"]
    assert all(reports[-1][0] == reports[-1][1] for title, reports in seen if not title.startswith("Testing"))
    assert found.capture.layers == [1]
    assert found.retention["policy"].values.tolist() == ["tree"]  # nothing is simulated where nothing is evicted
    expected = analysis.simulate(found.capture, {"tree": configs["tree"]})
    np.testing.assert_array_equal(found.retention["evicted_at"], expected["evicted_at"])
    assert found.spectrum.identical(analysis.spectrum(found.capture))
    assert (found.trends.attrs["samples"], found.beyond.attrs["protocol"]) == (1, "to the last token")
    entries = pipeline.manifest_entries("a title", found)
    assert entries["text"]["title"] == "a title" and entries["text"]["tokens"] == 256
    assert [band["band"] for band in entries["claims"]["bands"]] == found.trends["band"].values.tolist()
    json.dumps(entries, allow_nan=False)
    # This model was made in torch.inference_mode.
    assert not found.capture.has_sensitivity and "load it outside of it" in entries["no_gradients"]


@pytest.mark.slow
def test_gradients_are_captured_unless_they_are_left_out(monkeypatch) -> None:
    with torch.inference_mode(False):
        model, ids = tiny.llama(), tiny.tokens(256)[0]
    configs = {"tree": TreeKVConfig(cache_size=32, prefill="stream")}

    def made(sensitivity: bool | None) -> pipeline.RunArtifacts:
        return pipeline.analyse(model, None, ids, configs, silent_stage, [1], sensitivity=sensitivity)

    assert made(None).capture.has_sensitivity and made(None).no_gradients == ""
    assert not made(False).capture.has_sensitivity and made(False).no_gradients == ""
    monkeypatch.setattr(pipeline, "MOST_PARAMETERS", 10)
    assert made(None).no_gradients == "the model has more than 10 parameters"
    assert made(True).capture.has_sensitivity


@pytest.mark.slow
def test_a_long_text_gives_the_papers_samples() -> None:
    model, more = tiny.llama(), tiny.tokens(5 * 512)[0]
    reports: list[tuple[int, int]] = []

    @contextlib.contextmanager
    def stage(title: str) -> Iterator[pipeline.Progress]:
        yield lambda done, total: reports.append((done, total)) if title.startswith("Testing") else None

    configs = {"tree": TreeKVConfig(cache_size=32, prefill="stream")}
    found = pipeline.analyse(model, None, more[:256], configs, stage, [1], more)
    expected = analysis.trends(analysis.paper.figure2(model, None, [more], samples=5, layers=[1]))
    np.testing.assert_allclose(found.trends["growth"], expected["growth"], rtol=1e-4)
    assert found.trends.attrs["samples"] == 5 and found.trends.attrs["tokens"] == 512
    assert reports[-1] == (5, 5)
