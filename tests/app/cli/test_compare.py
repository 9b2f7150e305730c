"""treekv compare: the numbers of `analysis.compare`, and errors of compare and recommend."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import analysis
import treekv
from analysis.prediction import needles
from app.cli.compare import _configs
from tests import tiny
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
        assert row["predicted"] is row["measured"] is row["perplexity"] is None
        one = {"policy": row["name"]}
        assert row["kept"] == kept
        assert row["mass"] == pytest.approx(float(lost["mass"].sel(one).mean()))
        assert row["error"] == pytest.approx(float(lost["error"].sel(one).mean()))
        assert row["distance"] == pytest.approx(float(bias["distance"].sel(one).mean()))
    assert [row["name"] for row in printed["settings"]] == ["mine", "streaming"]
    assert printed["loss"]["note"].startswith("There is no predicted loss: the capture does not say where its model")


@pytest.fixture
def loadable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any name of a model is that of the captured one."""
    monkeypatch.setattr(treekv, "load_model", lambda name: (tiny.llama(), None))


def test_compare_leads_with_the_loss_and_sorts_by_it(capture_file: Path, loadable: None) -> None:
    asked = ("--cache-size", 24, "--model", "here", "--dtype", "float32", "--measure")
    printed = json.loads(invoke("compare", capture_file, *asked, "--json").stdout)
    captured = analysis.open(capture_file)
    configs = {
        name: TreeKVConfig(policy=name, cache_size=24, prefill="stream")
        for name in ("tree", "streaming", "h2o", "tova")
    }
    predicted, measured = (
        find(tiny.llama(), captured, configs, dtype="float32") for find in (analysis.replay, analysis.measure)
    )
    order = analysis.extra_loss(predicted).sortby(analysis.extra_loss(predicted))["policy"].values.tolist()
    assert [row["name"] for row in printed["settings"]] == order
    for row in printed["settings"]:
        of = {"policy": row["name"]}
        assert row["predicted"] == pytest.approx(float(analysis.extra_loss(predicted).sel(of)), abs=1e-4)
        assert row["measured"] == pytest.approx(float(analysis.extra_loss(measured).sel(of)), abs=1e-4)
        assert row["perplexity"] == pytest.approx(math.exp(float(measured["loss"].sel(of).mean())), rel=1e-4)
    assert printed["loss"]["dtype"] == "float32" and printed["loss"]["note"] == ""
    assert printed["loss"]["full"] == pytest.approx(float(predicted["loss"].sel(policy="full").mean()), abs=1e-4)


def test_hidden_numbers(capture_file: Path, loadable: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def find(model, tokenizer, captured, configs, **options):
        assert (list(configs), options["prompt"]) == (["tree"], 64)
        found = np.array([[[True, True], [True, False]], [[False, True], [False, False]]])
        places = {"policy": ["full", "tree"], "question": ["given", "withheld"], "depth": [25.0, 75.0]}
        return xr.Dataset({"found": (("policy", "question", "depth"), found)}, coords=places)

    monkeypatch.setattr(analysis, "find_needles", find)
    monkeypatch.setattr(needles, "LEAST_TOKENS", 32)  # the captured text is short
    asked = ("--policy", "tree", "--model", "here", "--needles")
    refused = invoke("compare", capture_file, *asked)
    assert (refused.exit_code, "prompt must be at least 32 tokens" in refused.stderr) == (2, True)
    shown = invoke("compare", capture_file, *asked, "--prompt", 64)
    assert "Numbers found in a prompt of 64 tokens" in shown.stdout and "1 of 2" in shown.stdout, shown.output
    assert "predicted" in shown.stdout
    assert "predicted" not in invoke("compare", capture_file, *asked, "--prompt", 64, "--no-loss").stdout
    printed = json.loads(invoke("compare", capture_file, *asked, "--prompt", 64, "--json").stdout)
    assert printed["needles"] == {"full": {"given": 1.0, "withheld": 0.5}, "tree": {"given": 0.5, "withheld": 0.0}}


def test_compare_says_what_ranks_settings(capture_file: Path, loadable: None) -> None:
    shown = invoke("compare", capture_file, "--policy", "tree", "--model", "here").stdout
    assert "they do not rank settings" in shown and "perplexity" in shown
    without = invoke("compare", capture_file, "--policy", "tree", "--no-loss").stdout
    assert "rank" not in without and "perplexity" not in without and "no predicted loss" not in without


def test_a_model_that_was_named_must_load(capture_file: Path) -> None:
    result = invoke("compare", capture_file, "--model", "./none")
    assert result.exit_code == 2 and "there is no file or folder './none'" in result.stderr


def test_compare_prints_a_table_of_the_policies(capture_file: Path) -> None:
    result = invoke("compare", capture_file, "--prompt", 100, "--figure", "policies.html")
    assert result.exit_code == 0, result.output
    assert all(name in result.stdout for name in ("tree", "streaming", "h2o", "tova", "Gini", "error"))
    page = Path("policies.html").read_text(encoding="utf-8")
    for title in ("Tokens kept, by policy", "How densely", "Attention retained", "Error of the", "How unevenly"):
        assert title in page
    assert page.count('role="img"') == 5


def test_a_policy_that_holds_prompts_whole_is_not_compared_in_blocks(capture_file: Path) -> None:
    captured = analysis.open(capture_file, "capture")
    for prompt, of_others in ((0, "stream"), (100, "once")):
        found = _configs(captured, [], ["tree", "openvino"], [], 128, prompt)
        assert [config.prefill for config in found.values()] == [of_others, "once"]


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
        (("recommend", "CAPTURE"), "one of --budget, --bytes and --target-loss, got none"),
        (("recommend", "CAPTURE", "--budget", 5), "at least 16 tokens, got 5"),
        (("recommend", "none.nc", "--budget", 48, "--bytes", 3), "got --budget and --bytes"),
        (
            ("recommend", "none.nc", "--budget", 48, "--stage", "prompt", "--no-loss"),
            "reads every text twice; leave out",
        ),
        (("recommend", "none.nc", "--target-loss", 0.1, "--no-loss"), "leave out --no-loss"),
    ],
)
def test_what_is_wrong_is_one_sentence(capture_file: Path, here: Path, arguments: tuple, words: str) -> None:
    result = invoke(*(capture_file if argument == "CAPTURE" else argument for argument in arguments))
    assert result.exit_code == 2
    assert words in result.stderr and len(result.stderr.strip().splitlines()[-1]) > 20
    assert not list(here.iterdir())
