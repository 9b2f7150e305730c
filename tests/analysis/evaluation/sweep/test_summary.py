"""A summary gives back what tables need, and a sweep goes on where it ends."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from analysis.evaluation.report import aggregate
from analysis.evaluation.sweep.records import Results
from analysis.evaluation.sweep.summary import read_records, read_summary, restore, write_summary
from tests.analysis.evaluation.report.examples import EVIL, record
from tests.analysis.evaluation.sweep.running import GRID, ran
from treekv import TreeKVError

LOSSES = np.linspace(4, 3, 100)
BY_POSITION = {"position": list(range(1, 2000, 20)), "loss": LOSSES.tolist(), "tokens": [20] * 99 + [5]}


def _records():
    made = [
        record(name, document, 1 / (3 + document) + len(name), document_key=f"{EVIL}{document}", budget=budget)
        for name, budget in (("full", None), ("tree", 64), ("tree", 128))
        for document in range(3)
    ]
    made += [record("tree", 7, None), record("h2o", 0, 2.5, detail={"by_position": BY_POSITION}, options={"a": [1]})]
    return made


def test_the_same_tables_come_out(tmp_path: Path) -> None:
    made = _records()
    assert write_summary(tmp_path / "s.json", made) == len(made) - 1
    back = read_summary(tmp_path / "s.json")
    assert {r.of.key for r in back} == {r.of.key for r in made if r.error is None}
    whole = aggregate.summarize([r for r in made if r.error is None])
    for own, other in zip(aggregate.summarize(back), whole, strict=True):
        assert (own.name, own.budget, own.group, own.answers) == (other.name, other.budget, other.group, other.answers)
        assert own.estimate.mean == pytest.approx(other.estimate.mean, rel=1e-7)
    [h2o] = [r for r in back if r.of.name == "h2o"]
    by = h2o.detail["by_position"]
    assert len(by["loss"]) <= 8 and by["position"][0] == 1 and sum(by["tokens"]) == 1985
    assert np.average(by["loss"], weights=by["tokens"]) == pytest.approx(
        np.average(LOSSES, weights=BY_POSITION["tokens"]), rel=1e-5
    )


def test_the_file_depends_on_the_records_alone_and_names_no_machine(tmp_path: Path) -> None:
    made = [record(document=i, about={"machine": {"host": "secret", "cores": 2}, "process": 1}) for i in range(4)]
    write_summary(tmp_path / "a.json", made)
    write_summary(tmp_path / "b.json", reversed(made))
    text = (tmp_path / "a.json").read_text()
    assert text == (tmp_path / "b.json").read_text() and "secret" not in text
    rows = [line for line in text.splitlines() if line.startswith("[") and "null" in line]
    assert len(rows) == 4  # a line for each document


def test_a_sweep_goes_on_where_a_summary_ends(tmp_path: Path) -> None:
    ran(tmp_path / "first", GRID)
    write_summary(tmp_path / "s.json", Results(tmp_path / "first").read()[:3])
    results = Results(tmp_path / "second")
    assert restore(tmp_path / "s.json", results) == 3
    assert restore(tmp_path / "s.json", results) == 0
    outcome = ran(tmp_path / "second", GRID)
    assert outcome.skipped == 3 and outcome.measured == len(Results(tmp_path / "first").read()) - 3


def test_records_are_read_from_either(tmp_path: Path) -> None:
    ran(tmp_path / "r", GRID)
    found, damaged = read_records(tmp_path / "r")
    write_summary(tmp_path / "s.json", found)
    assert len(read_records(tmp_path / "s.json")[0]) == len(found) and not damaged


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(format="other"), "is not a summary of results"),
        (lambda c: c.update(version=99), "has version 99"),
        (lambda c: c["cells"][0]["rows"][0].pop(), "is damaged: ValueError: a row and its columns differ"),
        (lambda c: c["cells"][0].update(task=9), "is damaged: IndexError"),
        (lambda c: c["cells"][0]["rows"][0].__setitem__(3, "high"), "is damaged: ValueError"),
        (lambda c: c.pop("documents"), "is damaged: KeyError"),
    ],
)
def test_another_file_is_one_sentence(tmp_path: Path, change, message: str) -> None:
    file = tmp_path / "s.json"
    write_summary(file, _records()[:2])
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    with pytest.raises(TreeKVError, match=message):
        read_summary(file)
