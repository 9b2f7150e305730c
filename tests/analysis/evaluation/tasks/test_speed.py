"""Task "speed": bytes are known, and times are those of the clock. No test asserts how fast anything is."""

from __future__ import annotations

import sys

import pytest
import torch

from analysis.evaluation import create
from analysis.evaluation.tasks import speed
from treekv import TreeKVConfig, TreeKVError

CONFIG = TreeKVConfig(cache_size=16, sink_size=2, recent_size=6)
BYTES = 2 * 2 * 2 * 8 * 4  # of a token in the tiny model: layers, keys and values, heads, channels, float32


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 3])
def test_cache_bytes_are_those_of_the_capacity(llama, batch):
    task = create("speed", lengths=[30], new_tokens=4, batch=batch, repeats=1)
    for document in task.documents(None):
        length = document.data["length"] + 4
        small = task.run(llama, None, CONFIG, document)
        assert next(iter(small.scores)) == "tokens_per_second"
        # At least what is held, at most one slot more for the next token.
        assert batch * 16 * BYTES <= small.scores["cache_bytes"] <= batch * 17 * BYTES
        assert small.scores["full_bytes"] == batch * length * BYTES
        whole = task.run(llama, None, None, document)
        assert whole.scores["cache_bytes"] == whole.scores["full_bytes"] >= batch * length * BYTES
        assert len(small.detail["rounds"]) == 1


@pytest.mark.slow
def test_times_are_medians_of_what_the_clock_says_after_a_round_to_warm_up(llama, monkeypatch):
    seconds = iter([0, 9, 9, 18, 0, 1, 1, 5, 0, 3, 3, 5, 0, 2, 2, 3])  # prompt and rest of four rounds
    monkeypatch.setattr(speed, "_now", lambda device: next(seconds))
    done = []
    task = create("speed", lengths=[20], new_tokens=8, repeats=3)
    found = task.run(llama, None, CONFIG, task.documents(None)[0], lambda *at: done.append(at))
    assert found.scores["prompt_seconds"] == 2
    assert found.scores["tokens_per_second"] == 8 / 2
    assert done == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak memory of a process")
def test_peak_memory_is_what_was_taken_meanwhile():
    size = 64 * 2**20

    def take(pieces):
        peak = speed._PeakMemory(torch.device("cpu"))
        taken = [torch.ones(size // pieces, dtype=torch.uint8) for _ in range(pieces)]
        del taken
        return peak.bytes()

    # The second time small pieces come from what the C library kept of the first ones.
    for pieces in (1, 1000, 1000):
        assert size * 0.9 < take(pieces) < size * 1.5
    assert speed._PeakMemory(torch.device("cpu")).bytes() < size / 4, "the peak is reset"


@pytest.mark.slow
def test_without_a_peak_the_score_is_missing(llama, monkeypatch):
    monkeypatch.setattr(speed, "_status", lambda entry: 0)
    task = create("speed", lengths=[20], new_tokens=2, repeats=1)
    assert "peak_bytes" not in task.run(llama, None, CONFIG, task.documents(None)[0]).scores


@pytest.mark.parametrize("given", [{"lengths": [0]}, {"new_tokens": 0}, {"batch": 0}, {"repeats": 0}, {"seed": -1}])
def test_impossible_options(given):
    with pytest.raises(TreeKVError, match=f"{next(iter(given))} must be a whole number of at least"):
        create("speed", **given)
