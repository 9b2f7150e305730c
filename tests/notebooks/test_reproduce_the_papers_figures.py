"""The notebook runs on real words, and its numbers are those of the paper's figures as the analysis gives them."""

from __future__ import annotations

import pytest
import torch

import analysis
from analysis import paper
from app.runs.sample_text import sample_text
from tests.notebooks.executing import TOKENS, executed
from treekv import load_model

REPORT = """{
    "gini": kept["gini"].mean(("layer", "head")).values.tolist(), "size": kept.attrs["cache_size"],
    "growth": growth.tolist(), "left": steps[-1].kept, "samples": bands.attrs["samples"]
}"""


def test_it_runs_and_shows_what_the_analysis_says(shallow, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TREEKV_NOTEBOOK_SAMPLES", "3")
    figures, report = executed("reproduce_the_papers_figures", REPORT, tmp_path, shallow, monkeypatch)
    assert figures == 3
    model, tokenizer = load_model(str(shallow), dtype=torch.bfloat16)
    kept = paper.figure1(analysis.capture(model, tokenizer, sample_text()[:20_000], max_tokens=TOKENS))
    assert report["size"] == TOKENS // 4
    assert report["gini"] == pytest.approx(kept["gini"].mean(("layer", "head")).values.tolist(), rel=0.02)
    assert report["gini"][2] < min(report["gini"][:2])
    bands = paper.figure2(model, tokenizer, sample_text(), tokens=TOKENS, samples=3)
    # Between margins of 32 positions: the first and the last 64.
    amplitude = bands["amplitude"].values
    assert report["growth"] == pytest.approx(
        (amplitude[:, 160:224].mean(1) / amplitude[:, 32:96].mean(1)).tolist(), rel=0.02
    )
    assert report["samples"] == 3
    assert tuple(report["left"]) == paper.figure3(" ".join(["word"] * 17), capacity=4)[-1].kept
