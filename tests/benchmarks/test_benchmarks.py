"""The benchmarks' command line; what they measure is not tested, for it is time."""

from __future__ import annotations

import argparse
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_an_option_of_another_benchmark_is_named_and_left_out(monkeypatch, capsys):
    """`make bench ARGS=...` gives the same to all."""
    arguments_of = runpy.run_path(str(BENCHMARKS / "measure.py"))["arguments_of"]
    monkeypatch.setattr(sys, "argv", ["steady.py", "--lengths", "64", "--steps", "20"])
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int)
    assert arguments_of(parser).steps == 20
    assert "steady.py has no option for --lengths 64 and goes on without" in capsys.readouterr().err


@pytest.mark.slow
def test_a_benchmark_runs_with_an_option_it_lacks():
    command = [sys.executable, str(BENCHMARKS / "steady.py"), "--steps", "20", "--rounds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=BENCHMARKS.parent)
    assert done.returncode == 0, done.stderr
    assert "steady.py has no option for --rounds 1" in done.stderr and "20 decode steps" in done.stdout
