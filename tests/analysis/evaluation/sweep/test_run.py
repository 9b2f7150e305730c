"""A sweep measures every cell once, survives every fault, and gives the same table however often it was killed."""

from __future__ import annotations

import datetime
import multiprocessing
import os
import random
import signal
from pathlib import Path

import pytest

from analysis.evaluation.sweep.records import Record, Results
from tests.analysis.evaluation.sweep.running import GRID, contents, ran
from treekv import TreeKVConfig


def test_every_cell_and_document_is_measured_once(tmp_path: Path) -> None:
    content = GRID | {"models": ["m", {"name": "n", "dtype": "float16"}], "seeds": [0, 3]}
    told: list[Record] = []
    counts: list[tuple[int, int]] = []
    outcome = ran(tmp_path / "r", content, on_record=told.append, on_total=lambda *count: counts.append(count))
    # 2 models, 2 seeds, 4 documents, and the full cache once, the others at two budgets
    assert outcome.measured == len(told) == 2 * 2 * 4 * 5
    assert outcome.complete
    assert counts[-1] == (80, 80)
    records = Results(tmp_path / "r").read()
    cells = {
        (r.of.model, r.of.dtype, r.of.task, r.of.options["seed"], r.of.seed, r.of.name, r.of.budget, r.of.document)
        for r in records
    }
    assert cells == {
        (model, dtype, "fake", seed, seed, name, budget, f"d{i}")
        for model, dtype in (("m", None), ("n", "float16"))
        for seed in (0, 3)
        for name, budget in (("full", None), *((name, size) for name in ("tree", "streaming") for size in (16, 32)))
        for i in range(4)
    }
    for record in records:
        config = record.of.config
        assert record.detail == {"size": config["cache_size"] if config else 0}
        if config is not None:
            written = TreeKVConfig(**config)
            assert written == TreeKVConfig(policy=record.of.name, cache_size=record.of.budget, seed=record.of.seed)
        assert record.facts["depth"] == int(record.of.document[1:])
        assert record.about["versions"].keys() >= {"python", "torch", "transformers", "treekv"}
        assert record.about["machine"].keys() >= {"host", "system", "cores"}
        assert datetime.datetime.fromisoformat(record.about["date"]).tzinfo is not None
        assert 0 < record.seconds < 60


def test_what_is_there_is_not_measured_again(tmp_path: Path) -> None:
    ran(tmp_path / "r", GRID | {"budgets": [16]})
    before = contents(tmp_path / "r")
    told: list[Record] = []
    again = ran(tmp_path / "r", on_record=told.append)
    assert (again.skipped, again.measured) == (12, 8)
    assert {record.of.budget for record in told} == {32}
    assert contents(tmp_path / "r").items() >= before.items()
    # Another document, option or setting is another record.
    more = ran(tmp_path / "r", GRID | {"tasks": [{"task": "fake", "documents_wanted": 5}]})
    assert (more.skipped, more.measured) == (0, 25)
    strided = ran(tmp_path / "r", GRID | {"settings": {"prefill": "stream"}})
    assert (strided.skipped, strided.measured) == (4, 16)


def test_neither_order_nor_interruption_changes_what_is_drawn_at_random(tmp_path: Path) -> None:
    ran(tmp_path / "one")
    ran(tmp_path / "other", GRID | {"policies": ["streaming"]})
    ran(tmp_path / "other", GRID | {"policies": ["tree", "full", "streaming"]})
    assert contents(tmp_path / "one") == contents(tmp_path / "other")


# ---------------------------------------------------------------------- faults


def test_a_fault_is_recorded_the_rest_goes_on_and_the_next_run_tries_again(tmp_path: Path) -> None:
    faults = {"d0": "raise", "d1": "nan", "d2": "set"}
    content = GRID | {"policies": ["full"], "tasks": [{"task": "fake", "faults": faults}]}
    outcome = ran(tmp_path / "r", content)
    assert not outcome.complete
    assert outcome.measured == 1
    assert outcome.failed == [
        "m, fake, document d0, full: RuntimeError: no such kernel",
        "m, fake, document d1, full: the score 'score' is nan, which cannot be averaged",
        "m, fake, document d2, full: TypeError: Object of type set is not JSON serializable",
    ]
    records = {record.of.document: record for record in Results(tmp_path / "r").read()}
    assert {name: bool(record.error) for name, record in records.items()} == {
        "d0": True, "d1": True, "d2": True, "d3": False,
    }  # fmt: skip
    assert records["d0"].scores == {}
    assert "fakes.py" in records["d0"].about["traceback"]
    mended = ran(tmp_path / "r", content | {"tasks": ["fake"]})
    assert (mended.skipped, mended.measured, mended.complete) == (1, 3, True)
    assert all(record.error is None for record in Results(tmp_path / "r").read())


def test_a_task_or_model_that_cannot_begin_does_not_stop_the_others(tmp_path: Path) -> None:
    content = GRID | {
        "models": ["broken", "m"],
        "tasks": [{"task": "fake", "faults": {"all": "columns"}}, {"task": "fake", "documents_wanted": 0}, "fake"],
        "policies": ["full"],
    }
    outcome = ran(tmp_path / "r", content)
    assert outcome.failed == [
        *["broken, fake: there is no model 'broken'"] * 3,
        "m, fake: the file 'x.jsonl' lacks the column 'input'",
        "m, fake: it has no documents",
    ]
    assert outcome.measured == 4
    # The same task with the same options came to documents in the end, so that failure is forgotten.
    failures = {r.error for r in Results(tmp_path / "r").read() if r.of.document is None}
    assert failures == {"there is no model 'broken'", "it has no documents"}


def test_settings_that_do_not_fit_a_document_are_that_documents_failure(tmp_path: Path) -> None:
    content = GRID | {"policies": [{"policy": "tree", "recent_size": 40, "sink_size": 4}], "budgets": ["12.5%"]}
    outcome = ran(tmp_path / "r", content)
    assert outcome.measured == 2
    assert len(outcome.failed) == 2
    assert "document d0, tree, budget 12.5%" in outcome.failed[0]


def test_what_a_full_disk_refuses_is_written_once_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, full = os.fsync, []

    def fsync(descriptor: int) -> None:
        if full:
            raise OSError(28, "No space left on device")
        original(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    kept: list[int] = []

    def told(record: Record) -> None:
        kept.append(len(list((tmp_path / "r" / "records").glob("*.json"))))
        full[:] = [True] * (len(kept) in range(3, 6))

    outcome = ran(tmp_path / "r", on_record=told)
    assert kept[:8] == [1, 2, 3, 3, 3, 3, 7, 8]
    assert outcome.complete
    assert outcome.measured == len(contents(tmp_path / "r")) == 20

    outcome = ran(tmp_path / "r", GRID | {"seeds": [9]}, on_record=lambda record: full.append(True))
    assert (outcome.measured, outcome.unwritten, outcome.complete) == (20, 19, False)
    assert outcome.reason.endswith("No space left on device")
    full.clear()
    assert len(contents(tmp_path / "r")) == 21


def test_a_stop_by_the_user_keeps_what_is_there(tmp_path: Path) -> None:
    told: list[Record] = []

    def stop(done: int, total: int) -> None:
        if len(told) == 7:
            raise KeyboardInterrupt

    outcome = ran(tmp_path / "r", on_record=told.append, progress=stop)
    assert outcome.interrupted
    assert not outcome.complete
    assert len(contents(tmp_path / "r")) == outcome.measured == 7
    assert ran(tmp_path / "r").measured == 13


# ---------------------------------------------------------------------- kills


def _child(path: Path, pause: float) -> None:
    ran(path, GRID | {"tasks": [{"task": "fake", "pause": pause}]})


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_with_the_same_records(tmp_path: Path) -> None:
    undisturbed = tmp_path / "undisturbed"
    ran(undisturbed)
    draw = random.Random(5)
    fork = multiprocessing.get_context("fork")
    for attempt in range(4):
        path = tmp_path / f"killed{attempt}"
        kills, before = 0, 0
        while True:
            process = fork.Process(target=_child, args=(path, 0.005))
            process.start()
            process.join(draw.uniform(0.01, 0.08))
            if process.exitcode is None and kills < 6:
                process.kill()
                kills += 1
            process.join()
            there = len(contents(path)) if (path / "results.json").exists() else 0
            assert there >= before  # nothing is lost
            before = there
            if process.exitcode == 0:
                break
            assert process.exitcode == -signal.SIGKILL
        assert kills >= 1
        assert contents(path) == contents(undisturbed)
