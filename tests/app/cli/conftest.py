"""What the commands work on: an empty current folder, and a capture of 200 tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import analysis
from tests import tiny
from tests.app.conftest import words_tokenizer


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def capture_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With gradients. Tests only read it."""
    file = tmp_path_factory.mktemp("captures") / "capture.nc"
    with torch.inference_mode(False):
        model = tiny.llama()
        return analysis.capture(model, None, tiny.tokens(200)[0], queries=4, sensitivity=True).save(file)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The captured model and its tokenizer as a folder that commands can load. Tests only read it."""
    folder = tmp_path_factory.mktemp("tiny-model")
    tiny.llama().save_pretrained(folder)
    words_tokenizer().save_pretrained(folder)
    return folder
