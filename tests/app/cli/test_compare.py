"""treekv compare: the numbers of `analysis.compare`, and errors of compare and recommend."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import analysis
from tests.app.cli.commands import invoke
from treekv import TreeKVConfig

pytestmark = pytest.mark.usefixtures("here")


@pytest.mark.parametrize("command", ["compare", "recommend"])
def test_help_shows_a_real_example(command: str) -> None:
    result = invoke(command, "--help")
    assert result.exit_code == 0
    assert f"Example: treekv {command} " in " ".join(result.stdout.split())


def test_compare_prints_the_numbers_of_the_analysis(capture_file: Path) -> None:
    mine = TreeKVConfig(cache_size=32, sink_size=1, prefill="stream")
    mine.save("mine.json")
    asked = ("--settings", "mine.json", "--policy", "streaming", "--cache-size", 24, "--output", "kept.nc")
    result = invoke("compare", capture_file, *asked, "--json")
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    run = analysis.open(capture_file)
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


def test_compare_prints_a_table_of_the_policies(capture_file: Path) -> None:
    result = invoke("compare", capture_file, "--prompt", 100, "--figure", "policies.html")
    assert result.exit_code == 0, result.output
    assert all(name in result.stdout for name in ("tree", "streaming", "h2o", "tova", "Gini", "error"))
    page = Path("policies.html").read_text(encoding="utf-8")
    for title in ("Tokens kept, by policy", "How densely", "Attention retained", "Error of the", "How unevenly"):
        assert title in page
    assert page.count('role="img"') == 5


def test_compare_adds_a_variant_of_each_policy_that_has_it(capture_file: Path) -> None:
    result = invoke("compare", capture_file, "--cache-size", 24, "--variant", "paper", "--json")
    assert result.exit_code == 0, result.output
    rows = {row["name"]: row for row in json.loads(result.stdout)["settings"]}
    assert list(rows) == ["tree", "streaming", "h2o", "tova", "h2o paper", "tova paper"]
    assert rows["h2o paper"]["mass"] != rows["h2o"]["mass"]


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("compare", "none.nc"), "there is no file 'none.nc'"),
        (("compare", "CAPTURE", "--policy", "best"), "'best'"),
        (("compare", "CAPTURE", "--policy", "tree", "--policy", "tree"), "'tree' is given twice"),
        (("compare", "CAPTURE", "--policy", "tree", "--variant", "paper"), "none of the compared policies has"),
        (("compare", "CAPTURE", "--prompt", 900), "between 0 and the 200 captured tokens, got 900"),
        (("compare", "CAPTURE", "--output", "none/kept.nc"), "does not exist"),
        (("recommend", "CAPTURE"), "one of budget, bytes and target"),
        (("recommend", "CAPTURE", "--budget", 5), "at least 16 tokens, got 5"),
        (("recommend", "CAPTURE", "--mass", 0.5, "--error", 0.5), "either --mass or --error"),
        (("recommend", "CAPTURE", "--budget", 48, "--ask", "taste"), "unknown question 'taste'"),
    ],
)
def test_what_is_wrong_is_one_sentence(capture_file: Path, here: Path, arguments: tuple, words: str) -> None:
    result = invoke(*(capture_file if argument == "CAPTURE" else argument for argument in arguments))
    assert result.exit_code == 2
    assert words in result.stderr and len(result.stderr.strip().splitlines()[-1]) > 20
    assert not list(here.iterdir())
