"""Runs a notebook and returns what it drew and printed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"
TOKENS = 256


def executed(name: str, report: str, folder: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[int, dict]:
    """How many figures the notebook drew of a model, and what `report` printed as JSON at its end."""
    monkeypatch.setenv("TREEKV_NOTEBOOK_MODEL", str(model))
    monkeypatch.setenv("TREEKV_NOTEBOOK_TOKENS", str(TOKENS))
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []  # of the run that is stored
    notebook.cells.append(nbformat.v4.new_code_cell(f'import json\nprint("REPORT", json.dumps({report}))'))
    client = NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    figures = sum("application/vnd.plotly.v1+json" in output.get("data", {}) for output in outputs)
    printed = "".join(output.get("text", "") for output in outputs)
    return figures, json.loads(printed.split("REPORT ")[1])
