"""Both notebooks run on the real model, and what they show is what the analysis says."""

from __future__ import annotations

import json
import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import analysis
from app.runs.sample_text import sample_text
from treekv import TreeKVConfig

ROOT = Path(__file__).resolve().parents[2]
TOKENS = 256


def executed(name: str, report: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[int, dict]:
    """How many figures the notebook drew, and what `report` printed as JSON at its end."""
    monkeypatch.setenv("TREEKV_NOTEBOOK_TOKENS", str(TOKENS))
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "clear the outputs before committing"
    notebook.cells.append(nbformat.v4.new_code_cell(f'import json\nprint("REPORT", json.dumps({report}))'))
    client = NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    figures = sum("application/vnd.plotly.v1+json" in output.get("data", {}) for output in outputs)
    printed = "".join(output.get("text", "") for output in outputs)
    return figures, json.loads(printed.split("REPORT ")[1])


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
    assert 1 < report["perplexity"]["full cache"] < report["perplexity"]["proposed"] < 200
