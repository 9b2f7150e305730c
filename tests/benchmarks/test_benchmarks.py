"""The command line of the benchmarks, and what they compute; times are not tested."""

from __future__ import annotations

import argparse
import os
import runpy
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

import analysis
from analysis.retention import ledger_simulation, simulate
from tests import tiny
from treekv import TreeKVCache, TreeKVConfig

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
    environment = os.environ | {"PYTHONPATH": str(BENCHMARKS.parent)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=BENCHMARKS.parent, env=environment)
    assert done.returncode == 0, done.stderr
    assert "steady.py has no option for --rounds 1" in done.stderr and "20 decode steps" in done.stdout


@torch.inference_mode()
@pytest.mark.parametrize("prompt", [0, 40])
def test_the_benchmark_of_recommendations_scores_what_it_says(prompt):
    """In blocks, or after a prompt token by token: against a loop over single tokens."""
    score = runpy.run_path(str(BENCHMARKS / "recommend.py"))["score"]
    model, ids = tiny.llama(), tiny.tokens(60)[0]
    config = TreeKVConfig(cache_size=16, block_size=4, prefill="none" if prompt else "stream")
    cache = TreeKVCache(config, model.config)
    pieces = [ids[:prompt], *ids[prompt:-1].split(1)] if prompt else [ids[:-1]]
    logits = torch.cat([model(input_ids=piece[None], past_key_values=cache).logits[0] for piece in pieces])
    expected = torch.nn.functional.cross_entropy(logits, ids[1:], reduction="none")[prompt:]
    torch.testing.assert_close(score(model, ids.tolist(), config, prompt).nll, expected)


def test_the_benchmark_of_simulations_runs(capsys):
    """It switches the compiled rules off for a comparison, by a name inside treekv."""
    module = runpy.run_path(str(BENCHMARKS / "simulate.py"))
    captured = analysis.capture(tiny.llama(), None, tiny.tokens(40)[0])
    configs = {name: TreeKVConfig(name, 16, prefill="stream", block_size=16) for name in ("tree", "h2o")}
    used = []
    original = ledger_simulation.simulate_with_ledger
    with patch.object(simulate, "simulate_with_ledger", lambda *a: (used.append(1), original(*a))):
        module["times"](captured, configs, 1.0, captured.layers)
    assert len(used) == 4 * len(configs)  # once for each block size
    assert capsys.readouterr().out.count("of the policies' own code") == 4
