"""treekv recommend: settings and reasons as `analysis.recommend` gives them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import analysis
from tests import tiny
from tests.app.cli.commands import invoke
from tests.app.conftest import words_tokenizer
from treekv import TreeKVConfig

pytestmark = pytest.mark.usefixtures("here")


def test_recommend_writes_settings_and_reasons(capture_file: Path) -> None:
    result = invoke("recommend", capture_file, "--budget", 48, "--ask", "scope", "--figure", "why.html", "--json")
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    config = TreeKVConfig.load("settings.json")
    assert printed["settings"] == config.to_dict() and config.cache_size == 48
    choice = analysis.recommend(analysis.open(capture_file), 48, questions=["scope"])
    assert config == choice.config and printed["reasons"] == list(choice.sentences)
    assert len(printed["tried"]) == choice.reasons.sizes["candidate"]
    assert "Settings tried on the captured text" in Path("why.html").read_text(encoding="utf-8")


def test_recommend_after_the_output_projection(capture_file: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    model = tmp_path_factory.mktemp("tiny-model")
    tiny.llama().save_pretrained(model)
    words_tokenizer().save_pretrained(model)
    asked = ("--budget", 48, "--ask", "scope", "--json")
    printed = json.loads(invoke("recommend", capture_file, *asked, "--projected", model).stdout)
    choice = analysis.recommend(analysis.open(capture_file), 48, questions=["scope"], model=tiny.llama())
    assert [row["error"] for row in printed["tried"]] == pytest.approx(choice.reasons["error"].values.tolist())


def test_recommend_says_why(capture_file: Path) -> None:
    result = invoke("recommend", capture_file, "--mass", 0.5, "--ask", "sinks", "--output", "mine.json")
    assert result.exit_code == 0, result.output
    assert "Size: " in result.stdout and "Sinks: " in result.stdout and "mine.json" in result.stdout
