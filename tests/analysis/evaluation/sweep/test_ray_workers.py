"""The same records on Ray, also when a worker is killed."""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
from pathlib import Path

import pytest

from analysis.evaluation.sweep.grid import parse_grid
from analysis.evaluation.sweep.ray_workers import RayWorkers
from analysis.evaluation.sweep.records import Record, Results
from analysis.evaluation.sweep.run import run_sweep
from tests.analysis.evaluation import fakes
from tests.analysis.evaluation.sweep.running import GRID, contents, ran
from tests.needs import lacking
from treekv import TreeKVError


@pytest.fixture
def ray_installed() -> None:
    if importlib.util.find_spec("ray") is None:
        lacking("Ray is not installed: pip install 'treekv[ray]'")


@pytest.mark.slow
@pytest.mark.usefixtures("ray_installed")
def test_two_workers_and_killed_ones_give_what_one_process_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    once = str(tmp_path / "killed-once")
    faults = {"d1": "kill once", "d2": "raise", "d3": "kill"}
    content = GRID | {
        "models": ["broken", "m"],
        "policies": ["full"],
        "tasks": [{"task": "fake", "documents_wanted": 8, "faults": faults, "once": once, "pause": 0.02}],
    }
    told: list[Record] = []
    results = Results(tmp_path / "ray")
    outcome = run_sweep(
        parse_grid(content), results, lambda: RayWorkers(2, load=fakes.load), create=fakes.create, on_record=told.append
    )
    assert outcome.measured == 8 - 2
    reasons = sorted(outcome.failed)
    assert reasons[0] == "broken, fake: there is no model 'broken'"
    assert reasons[1] == "m, fake, document d2, full: RuntimeError: no such kernel"
    assert reasons[2].startswith("m, fake, document d3, full: the worker process died 2 times: ")
    assert len(reasons) == 3
    # All was done by other processes, and what the killed one left was done by another.
    measured = {record.of.document: record.about["process"] for record in told if record.error is None}
    killed = int(Path(once).read_text())
    assert measured["d1"] not in (killed, os.getpid())
    assert os.getpid() not in measured.values()

    ran(tmp_path / "one", content | {"models": ["m"], "tasks": [{"task": "fake", "documents_wanted": 8}]})
    expected = {key: of for key, of in contents(tmp_path / "one").items() if of["of"]["document"] not in ("d2", "d3")}
    made = {key: of for key, of in contents(tmp_path / "ray").items() if of["error"] is None}
    assert made == expected


@pytest.mark.usefixtures("ray_installed")
def test_what_keeps_ray_from_starting_is_one_sentence() -> None:
    with pytest.raises(TreeKVError, match="workers must be at least 1, got 0"):
        RayWorkers(0)
    with pytest.raises(TreeKVError, match=r"Ray cannot be reached at '127\.0\.0\.1:x': "):
        RayWorkers(2, "127.0.0.1:x")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(TreeKVError, match=f"Ray cannot be reached at '127.0.0.1:{port}': "):
        RayWorkers(2, f"127.0.0.1:{port}")


def test_without_ray_the_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(TreeKVError, match=r"several workers need Ray, .*pip install 'treekv\[ray\]'"):
        RayWorkers(2)
