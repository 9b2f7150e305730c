"""Run the notebooks and store them with their outputs: python notebooks/store_outputs.py [NAME ...]

A figure is stored as a picture with its text alternative, since pages that show notebooks do not run plotly. It needs
the extras `notebooks` and `pictures` and a Chromium. The environment variables that a notebook names set its length.
"""

from __future__ import annotations

import base64
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
import plotly.io as pio
from nbclient import NotebookClient

from app.export.figure_files import image

FOLDER = Path(__file__).resolve().parent
PLOTLY, WIDGET = "application/vnd.plotly.v1+json", "application/vnd.jupyter.widget-view+json"


def stored(path: Path) -> Any:
    """The notebook with the outputs of a new run."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:  # for what the notebook itself writes
        NotebookClient(notebook, timeout=None, resources={"metadata": {"path": folder}}).execute()
    for cell in notebook.cells:
        cell.metadata = {}  # such as when it ran
        if "outputs" in cell:  # a widget is nothing without its kernel
            cell.outputs = [output for output in cell.outputs if WIDGET not in output.get("data", {})]
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if PLOTLY in data:
                figure = pio.from_json(json.dumps({name: data[PLOTLY][name] for name in ("data", "layout")}))
                picture = base64.b64encode(image(figure, "png", scale=1)).decode()
                output["data"] = {"image/png": picture, "text/plain": figure.layout.meta["alt"]}
    notebook.metadata = {name: notebook.metadata[name] for name in ("kernelspec", "language_info")}
    notebook.metadata["language_info"] = {"name": "python"}
    return notebook


for path in sorted(FOLDER.glob("*.ipynb")):
    if not sys.argv[1:] or path.stem in sys.argv[1:]:
        notebook = stored(path)
        nbformat.write(notebook, path)
        print(f"{path.name}: {path.stat().st_size:,} bytes")
