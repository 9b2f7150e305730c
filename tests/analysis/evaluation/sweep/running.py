"""Run a sweep of the fake task and read what it wrote."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from analysis.evaluation.sweep.grid import parse_grid
from analysis.evaluation.sweep.records import Results
from analysis.evaluation.sweep.run import Outcome, run_sweep
from analysis.evaluation.sweep.runner import OneProcess
from tests.analysis.evaluation import fakes

GRID = {"models": ["m"], "policies": ["full", "tree", "streaming"], "budgets": [16, 32], "tasks": ["fake"]}


def ran(path: Path, content: dict = GRID, **options) -> Outcome:
    return run_sweep(parse_grid(content), Results(path), lambda: OneProcess(fakes.load), create=fakes.create, **options)


def contents(path: Path) -> dict[str, dict]:
    """What the records say, but for dates and durations."""
    results = Results(path)
    records = {record.of.key: dataclasses.asdict(record) for record in results.read()}
    assert results.damaged == []
    for record in records.values():
        del record["seconds"], record["about"]
    return records
