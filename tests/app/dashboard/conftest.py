"""Fixtures of the pages: Compare on the small run, and a tiny model under every name."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.dashboard.session import loaded_model
from tests import tiny
from tests.app.conftest import words_tokenizer
from tests.app.pages import page
from treekv import TreeKVError


@pytest.fixture
def compare(small_run: Path, monkeypatch: pytest.MonkeyPatch):
    return lambda **query: page("compare", small_run, monkeypatch, **query)


@pytest.fixture
def tiny_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every name is a tiny model, except "bad"."""

    def load_model(name: str) -> tuple:
        if name == "bad":
            raise TreeKVError("there is no model 'bad'; a model is an alias")
        return tiny.llama(), words_tokenizer()

    monkeypatch.setattr(loaded_model.treekv, "load_model", load_model)
    loaded_model._load.clear()
