"""Records of an earlier version, in which prefill "once" was called "tree", are read and go on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from analysis.evaluation.report import aggregate
from analysis.evaluation.sweep.records import Record, Results
from tests.analysis.evaluation.sweep.running import contents, ran
from treekv import TreeKVConfig

# Ten records of the fake task, as that version wrote them, but for dates and machine. `POLICIES` is what it measured.
WRITTEN = (Path(__file__).parent / "records_of_version_1.jsonl").read_text(encoding="utf-8").splitlines()
POLICIES = [
    "full", "tree", "random",
    {"name": "h2o once", "policy": "h2o", "prefill": "tree"},
    {"name": "streamed", "policy": "streaming", "prefill": "stream"},
]  # fmt: skip
GRID = {"models": ["m"], "policies": POLICIES, "budgets": [16], "tasks": [{"task": "fake", "documents_wanted": 2}]}


def folder(path: Path, lines: list[str]) -> Path:
    """A results folder as that version left it, with these records."""
    (path / "records").mkdir(parents=True)
    (path / "results.json").write_text('{"format": "treekv-results", "version": 1}\n')
    for line in lines:
        (path / "records" / f"{json.loads(line)['key']}.json").write_text(line + "\n", encoding="utf-8")
    return path


def test_the_records_are_those_of_the_earlier_version() -> None:
    prefills = [json.loads(line)["of"]["config"] for line in WRITTEN]
    assert sorted(config["prefill"] for config in prefills if config) == ["stream"] * 2 + ["tree"] * 6


@pytest.mark.parametrize("line", WRITTEN, ids=lambda line: json.loads(line)["key"][:6])
def test_a_record_keeps_its_key_and_has_settings_of_today(line: str) -> None:
    content, record = json.loads(line), Record.from_json(line)
    assert record.of.key == content["key"]
    again = Record.from_json(record.to_json())
    assert again == record and again.of.key == content["key"]
    if record.of.config is not None:
        config = TreeKVConfig(**record.of.config)
        assert config.prefill == record.of.config["prefill"] in ("once", "stream")


@pytest.mark.parametrize("there", [0, 3, 10])
def test_an_interrupted_sweep_goes_on_with_what_is_missing(tmp_path: Path, there: int) -> None:
    path = folder(tmp_path / "old", WRITTEN[:there])
    outcome = ran(path, GRID)
    assert (outcome.skipped, outcome.measured, outcome.complete) == (there, 10 - there, True)
    # What is drawn at random follows from the key, so the other records are what the earlier version would have made.
    assert contents(path) == contents(folder(tmp_path / "whole", WRITTEN))


def test_old_and_new_records_are_not_labelled_as_different_settings(tmp_path: Path) -> None:
    path = folder(tmp_path / "old", WRITTEN[:5])
    ran(path, GRID)
    rows = aggregate.summarize(Results(path).read())
    assert len(rows) == 10  # two lengths, and a document of each
    assert {row.name for row in rows} == {"full", "h2o once", "random", "streamed", "tree"}
