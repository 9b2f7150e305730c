"""treekv compare and treekv recommend: numbers of the analysis, files that the other commands read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import analysis
from app.cli import app
from tests import tiny
from tests.app.conftest import words_tokenizer
from treekv import TreeKVConfig


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("captures") / "capture.nc"
    return analysis.capture(tiny.llama(), None, tiny.tokens(200)[0], queries=4).save(file)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", ["compare", "recommend"])
def test_help_shows_a_real_example(command: str) -> None:
    result = invoke(command, "--help")
    assert result.exit_code == 0
    assert f"Example: treekv {command} " in " ".join(result.stdout.split())


def test_compare_prints_the_numbers_of_the_analysis(captured: Path) -> None:
    mine = TreeKVConfig(cache_size=32, sink_size=1, prefill="stream")
    mine.save("mine.json")
    asked = ("--settings", "mine.json", "--policy", "streaming", "--cache-size", 24, "--output", "kept.nc")
    result = invoke("compare", captured, *asked, "--json")
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    run = analysis.open(captured)
    configs = {"mine": mine, "streaming": TreeKVConfig(policy="streaming", cache_size=24, prefill="stream")}
    retention = analysis.simulate(run, configs)
    assert analysis.open("kept.nc").equals(retention)
    lost, bias = analysis.output_loss(run, retention), analysis.recency_bias(retention)
    for row, kept in zip(printed["settings"], (32, 24)):
        one = {"policy": row["name"]}
        assert row["kept"] == kept
        assert row["mass"] == pytest.approx(float(lost["mass"].sel(one).mean()))
        assert row["error"] == pytest.approx(float(lost["error"].sel(one).mean()))
        assert row["distance"] == pytest.approx(float(bias["distance"].sel(one).mean()))
    assert [row["name"] for row in printed["settings"]] == ["mine", "streaming"]


def test_compare_prints_a_table_of_the_policies(captured: Path) -> None:
    result = invoke("compare", captured, "--prompt", 100, "--figure", "policies.html")
    assert result.exit_code == 0, result.output
    assert all(name in result.stdout for name in ("tree", "streaming", "h2o", "tova", "Gini", "error"))
    page = Path("policies.html").read_text(encoding="utf-8")
    for title in ("Tokens kept, by policy", "How densely", "Attention retained", "Error of the", "How unevenly"):
        assert title in page
    assert page.count('role="img"') == 5


def test_recommend_writes_settings_and_reasons(captured: Path) -> None:
    result = invoke("recommend", captured, "--budget", 48, "--ask", "scope", "--figure", "why.html", "--json")
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    config = TreeKVConfig.load("settings.json")
    assert printed["settings"] == config.to_dict() and config.cache_size == 48
    choice = analysis.recommend(analysis.open(captured), 48, questions=["scope"])
    assert config == choice.config and printed["reasons"] == list(choice.sentences)
    assert len(printed["tried"]) == choice.reasons.sizes["candidate"]
    assert "Settings tried on the captured text" in Path("why.html").read_text(encoding="utf-8")


def test_recommend_after_the_output_projection(captured: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    model = tmp_path_factory.mktemp("tiny-model")
    tiny.llama().save_pretrained(model)
    words_tokenizer().save_pretrained(model)
    asked = ("--budget", 48, "--ask", "scope", "--json")
    printed = json.loads(invoke("recommend", captured, *asked, "--projected", model).stdout)
    choice = analysis.recommend(analysis.open(captured), 48, questions=["scope"], model=tiny.llama())
    assert [row["error"] for row in printed["tried"]] == pytest.approx(choice.reasons["error"].values.tolist())


def test_recommend_says_why(captured: Path) -> None:
    result = invoke("recommend", captured, "--mass", 0.5, "--ask", "sinks", "--output", "mine.json")
    assert result.exit_code == 0, result.output
    assert "Size: " in result.stdout and "Sinks: " in result.stdout and "mine.json" in result.stdout


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("compare", "none.nc"), "there is no file 'none.nc'"),
        (("compare", "CAPTURE", "--policy", "best"), "'best'"),
        (("compare", "CAPTURE", "--policy", "tree", "--policy", "tree"), "'tree' is given twice"),
        (("compare", "CAPTURE", "--prompt", 900), "between 0 and the 200 captured tokens, got 900"),
        (("compare", "CAPTURE", "--output", "none/kept.nc"), "does not exist"),
        (("recommend", "CAPTURE"), "one of budget, bytes and target"),
        (("recommend", "CAPTURE", "--budget", 5), "at least 16 tokens, got 5"),
        (("recommend", "CAPTURE", "--mass", 0.5, "--error", 0.5), "either --mass or --error"),
        (("recommend", "CAPTURE", "--budget", 48, "--ask", "taste"), "unknown question 'taste'"),
    ],
)
def test_what_is_wrong_is_one_sentence(captured: Path, here: Path, arguments: tuple, words: str) -> None:
    result = invoke(*(captured if argument == "CAPTURE" else argument for argument in arguments))
    assert result.exit_code == 2
    assert words in result.stderr and len(result.stderr.strip().splitlines()[-1]) > 20
    assert not list(here.iterdir())
