"""The Python examples of README.md run word for word, in their order, and evict something."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import plotly.graph_objects as go
import pytest

import treekv
from tests import tiny
from tests.app.conftest import words_tokenizer

README = Path(__file__).resolve().parent.parent / "README.md"


def test_the_python_examples_run_and_evict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(README, tmp_path)
    monkeypatch.chdir(tmp_path)
    shown: list[go.Figure] = []
    monkeypatch.setattr(go.Figure, "show", lambda figure: shown.append(figure))
    # A tiny model in place of the one that the examples load.
    monkeypatch.setattr(treekv, "load_model", lambda name: (tiny.llama(window=4096), words_tokenizer()))
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2
    names: dict = {}
    for block in blocks:
        exec(block, names)
    assert names["cache"].tokens_seen(0) > names["cache"].kept_positions(0).shape[-1] == 128
    assert (names["retention"]["evicted_at"] >= 0).any()
    assert len(shown) == 1
    assert treekv.TreeKVConfig.load("settings.json") == names["config"]
