"""treekv plan: the sentence, the JSON, and what cannot be planned."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import analysis
from analysis.memory_plan import plan
from app.text.wording import plan_in_words
from tests import tiny
from tests.app.cli.commands import invoke
from tests.families.tiny_models import configuration


def test_it_says_what_fits_and_predicts_the_loss(here: Path, tiny_model: Path, capture_file: Path) -> None:
    captured = analysis.open(capture_file)
    weights = 2 * sum(parameter.numel() for parameter in tiny.llama().parameters())
    found = plan(captured, memory=40_000, users=2, context=1000)
    arguments = ("plan", "--memory", f"{weights + 40_000}B", "--users", 2, "--context", 1000, "--model", tiny_model)
    said = invoke(*arguments)
    assert said.exit_code == 0, said.output
    assert plan_in_words(found, 2, 1000, "bfloat16") in " ".join(said.stdout.split())
    result = json.loads(invoke(*arguments, "--capture", capture_file, "--json").stdout)
    assert result["settings"] == found.config.to_dict() and result["bytes_per_request"] == found.request_bytes
    assert result["weights"] == weights
    table = analysis.replay(tiny.llama(), captured, {"a": found.config})
    assert result["predicted_loss_above_full"] == pytest.approx(float(analysis.extra_loss(table)[0]), abs=1e-3)


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ("openvino", "tokens for each layer and KV head (OpenVINO"),
        ("snapkv", "tokens for each layer and KV head (SnapKV"),
        ("pyramidkv", "tokens for each layer and KV head (PyramidKV"),
        ("full", "1 full cache of 1,000 tokens takes"),
    ],
)
def test_every_policy_can_be_planned(here: Path, tiny_model: Path, policy: str, words: str) -> None:
    said = invoke(
        "plan", "--memory", "60kB", "--no-weights", "--context", 1000, "--model", tiny_model, "--policy", policy
    )
    assert said.exit_code == (2 if policy == "full" else 0), said.output
    assert words in " ".join(said.output.split())


def test_states_are_said_not_to_be_counted(here: Path) -> None:
    configuration("bamba").save_pretrained("bamba")
    arguments = ("plan", "--memory", "1GB", "--context", 1000, "--model", "bamba")
    words = "The states that 2 layers keep beside keys and values are not counted."
    assert words in " ".join(invoke(*arguments).stdout.split())
    assert json.loads(invoke(*arguments, "--json").stdout)["note"] == words


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--memory", "much"), "memory must be a size such as 24 GB"),
        (("--memory", "1kB"), "take"),
        (("--memory", "1GB", "--dtype", "int8"), "dtype must be one of"),
        (("--memory", "1GB", "--policy", "none"), "policy must be one of"),
        (("--memory", "1GB", "--capture", "missing.nc"), "there is no file 'missing.nc'"),
        (("--memory", "1GB", "--model", "missing-model"), "'missing-model' is no alias and no local file or folder"),
    ],
)
def test_mistakes_are_one_sentence(
    here: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple, words: str
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    chosen = arguments if "--model" in arguments else (*arguments, "--model", tiny_model)
    said = invoke("plan", *chosen)
    assert said.exit_code == 2
    assert words in " ".join(said.output.split())
