"""treekv models: which aliases there are, and whether they are installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from app.cli import app
from tests.families import tiny_models
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


def checked(folder: Path, *more: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["models", "--check", str(folder), *more])
    assert result.stderr == ""
    return result.exit_code, result.stdout


def saved(family: str, folder: Path, **changes: Any) -> Path:
    """A configuration without weights."""
    tiny_models.configuration(family, **changes).save_pretrained(folder)
    return folder


def test_a_check_says_what_becomes_of_each_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    code, shown = checked(saved("gemma3_text", tmp_path))
    assert code == 0
    assert "attention to the last 16 tokens" in shown and "as transformers builds it" in shown
    assert "2 of 4 layers are compressed" in shown and "Positions, unless they are given: rank." in shown
    code, printed = checked(tmp_path, "--json")
    found = json.loads(printed)
    assert code == 0 and (found["family"], found["positions"], found["refused"]) == ("gemma3_text", "rank", None)
    assert [layer["compressed"] for layer in found["layers"]] == [False, True, False, True]
    assert found["bytes_per_token"] == 2 * 2 * (16 + 16) * 4  # layers, heads, channels, bytes


def test_a_check_says_why_positions_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    code, shown = checked(saved("llama", tmp_path, rope_parameters=rope))
    assert code == 0 and "Positions, unless they are given: original, since" in shown and "'dynamic'" in shown
    code, shown = checked(saved("cohere2", tmp_path))
    assert code == 0 and "compressed; it has no positions" in shown


def test_a_check_of_what_cannot_be_compressed_says_why(tmp_path: Path) -> None:
    code, shown = checked(saved("mistral", tmp_path))
    assert code == 1 and "It cannot be compressed: no layer of this 'mistral' model has full attention" in shown
    code, printed = checked(saved("bloom", tmp_path), "--json")
    assert code == 1 and "'bloom' compute attention themselves" in json.loads(printed)["refused"]
    result = CliRunner().invoke(app, ["models", "--check", str(tmp_path / "missing")])
    assert result.exit_code == 2 and "there is no file or folder" in result.stderr
