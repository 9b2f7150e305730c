"""treekv recommend: settings and reasons as `analysis.recommend` gives them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import analysis
from tests.app.cli.commands import invoke
from treekv import TreeKVConfig, load_model

pytestmark = pytest.mark.usefixtures("here")


def test_recommend_writes_settings_and_reasons(capture_file: Path) -> None:
    result = invoke("recommend", capture_file, "--budget", 48, "--figure", "why.html", "--json", "--no-loss")
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    config = TreeKVConfig.load("settings.json")
    assert printed["settings"] == config.to_dict() and config.cache_size == 48
    choice = analysis.recommend(analysis.open(capture_file), 48)
    assert config == choice.config and printed["reasons"] == list(choice.sentences)
    assert printed["loss"] is None and printed["bytes"] == choice.nbytes
    assert "Tokens that each head needs" in Path("why.html").read_text(encoding="utf-8")


def test_recommend_predicts_the_loss(capture_file: Path, tiny_model: Path) -> None:
    result = invoke("recommend", capture_file, capture_file, "--budget", 48, "--model", tiny_model, "--json")
    assert result.exit_code == 0, result.output
    choice = analysis.recommend(analysis.open(capture_file), 48, model=load_model(tiny_model)[0])
    names, values = choice.losses["policy"].values.tolist(), choice.losses.values.tolist()
    assert json.loads(result.stdout)["loss"] == pytest.approx(dict(zip(names, values, strict=True)))


def test_recommend_says_why(capture_file: Path) -> None:
    result = invoke("recommend", capture_file, "--bytes", 9_000, "--thorough", "--output", "mine.json")
    assert result.exit_code == 0, result.output
    assert "There is no predicted loss" in result.stdout
    assert "Budgets: by the simulated damage" in result.stdout and "mine.json" in result.stdout


def test_a_target_needs_the_model(capture_file: Path) -> None:
    result = invoke("recommend", capture_file, "--target-loss", 0.1)
    assert result.exit_code == 2 and "does not say where its model 'llama' is" in result.stderr


@pytest.mark.parametrize(
    ("goal", "words"),
    [
        (("--target-loss", -1), "--target-loss must be more than 0 nats a token, got -1"),
        (("--target-loss", "nan"), "--target-loss must be more than 0 nats a token, got nan"),
        (("--bytes", 0), "--bytes must be at least 1, got 0"),
        (("--budget", 15), "--budget must be at least 16 tokens, got 15"),
    ],
)
def test_a_wrong_goal_is_said_before_anything_is_read(tmp_path: Path, goal: tuple, words: str) -> None:
    result = invoke("recommend", tmp_path / "missing.nc", *goal)
    assert result.exit_code == 2 and words in " ".join(result.stderr.split())
