"""The notebooks are stored with what a whole run gave: pictures, no warning, nothing of the machine that ran them."""

from __future__ import annotations

import re

import nbformat
import pytest

from tests.notebooks.executing import NOTEBOOKS

PICTURES = {
    "choose_settings_and_generate": 2,
    "compare_policies_on_your_text": 9,
    "reproduce_the_papers_analysis": 6,
    "reproduce_the_papers_figures": 3,
}


def test_every_notebook_is_known() -> None:
    assert set(PICTURES) == {path.stem for path in NOTEBOOKS.glob("*.ipynb")}


@pytest.mark.parametrize("name", sorted(PICTURES))
def test_a_notebook_has_its_pictures_and_no_warning(name: str) -> None:
    path = NOTEBOOKS / f"{name}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    pictures = [output.data for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == PICTURES[name]
    assert all(len(data["text/plain"]) > 80 for data in pictures)  # the text alternative
    assert path.stat().st_size < 2_000_000
    words = re.sub(r'"image/png": "[^"]*"', "", path.read_text(encoding="utf-8"))
    assert not re.search(r"/(home|root|tmp|work|usr)/|https?://(?!huggingface|arxiv)", words)
