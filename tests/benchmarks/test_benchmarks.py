"""The command line of the benchmarks, and what they compute; times are not tested."""

from __future__ import annotations

import argparse
import json
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
from tests.app.conftest import words_tokenizer
from treekv import TreeKVConfig, load_model

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


@torch.inference_mode(False)
def test_the_settings_made_are_the_recommended_ones(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        tiny.llama().save_pretrained(tmp_path / "tiny")
        words_tokenizer().save_pretrained(tmp_path / "tiny")
        (tmp_path / "words.txt").write_text(" ".join(f"w{2 + n * n % 90}" for n in range(300)))
        patched.chdir(tmp_path)
        words = ["recommended_settings.py", "--model", "tiny", "--text", "words.txt:20", "--tokens", "200"]
        patched.setattr(sys, "argv", [*words, "--budgets", "32", "--output", "made", "--dtype", "float32"])
        runpy.run_path(str(BENCHMARKS / "recommended_settings.py"), run_name="__main__")
        made = TreeKVConfig.load("made/tiny-32.json")
        provenance = json.loads(Path("made/tiny-32.json").read_text())["provenance"]
        model, tokenizer = load_model("tiny")
        ids = tokenizer(Path("words.txt").read_text())["input_ids"][20:220]
    captured = analysis.capture(model, tokenizer, ids, sensitivity=True)
    assert made == analysis.recommend(captured, 32).config
    assert provenance["texts"] == ["words.txt, from token 20"] and provenance["tokens"] == [200]


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


def test_a_model_without_grouped_queries_computes_the_same():
    ungrouped = runpy.run_path(str(BENCHMARKS / "ungrouped_model.py"))["ungrouped"]
    model, ids = tiny.llama(), tiny.tokens(20, 2)
    made = ungrouped(model)
    assert made.config.num_key_value_heads == model.config.num_attention_heads > model.config.num_key_value_heads
    torch.testing.assert_close(made(ids).logits, model(ids).logits)
