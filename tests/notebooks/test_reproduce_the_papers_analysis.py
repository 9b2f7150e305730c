"""The notebook runs on real words, and what it shows is what the analysis says."""

from __future__ import annotations

import json
import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import analysis
from app.runs.sample_text import sample_text
from treekv import load_model

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "notebooks" / "reproduce_the_papers_analysis.ipynb"
TOKENS = 256
REPORT = """
import json
print("REPORT", json.dumps({name: [found.attrs["claim_i"], found.attrs["claim_ii"], found["growth"].values.tolist()]
                            for name, found in verdicts.items()} | {"error": error, "layers": captured.layers}))
"""


def test_it_runs_and_shows_what_the_analysis_says(shallow, monkeypatch) -> None:
    monkeypatch.setenv("TREEKV_NOTEBOOK_TOKENS", str(TOKENS))
    monkeypatch.setenv("TREEKV_NOTEBOOK_MODEL", str(shallow))
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []  # of the run that is stored
    notebook.cells.append(nbformat.v4.new_code_cell(REPORT))
    NotebookClient(notebook, timeout=600, kernel_name="python3").execute()

    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    figures = [o for o in outputs if "application/vnd.plotly.v1+json" in o.get("data", {})]
    assert len(figures) == 6
    printed = "".join(output.get("text", "") for output in outputs)
    report = json.loads(printed.split("REPORT ")[1])
    assert report["error"] < 1e-5
    model, tokenizer = load_model(str(shallow))
    captured = analysis.capture(model, tokenizer, sample_text()[:20_000], max_tokens=TOKENS)
    assert report["layers"] == captured.layers
    expected = {
        sinks: analysis.trends(analysis.spectrum(captured, sinks=sinks), protocol="to the last token")
        for sinks in ("separate", "include")
    }
    expected["paper"] = analysis.trends(analysis.paper.figure2(model, tokenizer, sample_text(), samples=8))
    for name, found in expected.items():
        claim_i, claim_ii, growth = report[name]
        assert [claim_i, claim_ii] == [found.attrs["claim_i"], found.attrs["claim_ii"]]
        assert growth == pytest.approx(found["growth"].values.tolist(), rel=1e-3)
        assert f"{name}: claim (i) {claim_i}, claim (ii) {claim_ii}" in printed
