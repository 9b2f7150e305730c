"""treekv models: which aliases there are, and whether they are installed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.cli import app
from treekv import models


def test_it_lists_every_alias() -> None:
    result = CliRunner().invoke(app, ["models", "--json"])
    assert result.exit_code == 0
    listed = {row["name"]: row for row in json.loads(result.stdout)["models"]}
    assert list(listed) == list(models.ALIASES)
    assert listed["smollm2"]["installed"] is True


def test_the_table_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    states = [
        models.AliasState("small", "Small 1B", "small-gguf==1.0", False, None),
        models.AliasState("large", "Large 9B", "large-gguf==2.0", True, Path("converted")),
    ]
    monkeypatch.setattr(models, "alias_states", lambda: states)
    monkeypatch.setenv("COLUMNS", "120")
    lines = CliRunner().invoke(app, ["models"]).stdout.splitlines()
    small, large = (next(line for line in lines if state.name in line) for state in states)
    assert "not installed (small-gguf==1.0)" in small and "on first use" in small
    assert "not installed" not in large and "converted" in large
