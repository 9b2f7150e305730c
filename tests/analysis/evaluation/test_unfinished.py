"""An interrupted stream goes on where it was, and ends with the numbers of one that was not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from analysis.evaluation import create, stream_perplexity
from analysis.evaluation.sweep.grid import parse_grid
from analysis.evaluation.sweep.records import Results
from analysis.evaluation.sweep.run import run_sweep
from analysis.evaluation.sweep.runner import OneProcess
from analysis.evaluation.unfinished import UnfinishedStream
from tests import tiny
from tests.analysis.evaluation.words import Words
from treekv import TreeKVCache, TreeKVConfig

CONFIG = TreeKVConfig(cache_size=16, sink_size=2, recent_size=6, prefill="stream", block_size=4)


class Stopped(Exception):
    pass


def stop_at(tokens):
    def progress(done, total):
        if done >= tokens:
            raise Stopped

    return progress


@pytest.mark.parametrize("policy", ["tree", "h2o", "streaming", "full"])
@pytest.mark.parametrize("rows", [1, 3])
def test_a_stream_goes_on_token_for_token(llama, tmp_path: Path, policy: str, rows: int) -> None:
    ids = tiny.tokens(90, rows)
    config = CONFIG.replace(policy=policy) if policy != "full" else TreeKVConfig(policy="full")
    whole = stream_perplexity(llama, ids, TreeKVCache(config, llama.config), chunk=8)
    for stop in (24, 56):  # the second interruption is of a stream that went on
        kept = UnfinishedStream(tmp_path / "u", "one", every=0)
        with pytest.raises(Stopped):
            stream_perplexity(llama, ids, TreeKVCache(config, llama.config), 8, stop_at(stop), unfinished=kept)
        assert sorted(file.name for file in (tmp_path / "u").iterdir()) == [
            f"one-{stop}.safetensors",
            f"one-{stop}.treekv",
        ]
    read = []
    kept = UnfinishedStream(tmp_path / "u", "one", every=0)
    cache = TreeKVCache(config, llama.config)
    found = stream_perplexity(llama, ids, cache, 8, lambda done, total: read.append(done), unfinished=kept)
    assert read == [64, 72, 80, 88, 90]
    torch.testing.assert_close(found.nll, whole.nll, atol=1e-5, rtol=0)
    assert found.cache_bytes == whole.cache_bytes and found.seconds > 0
    assert not (tmp_path / "u").exists(), "nothing is left of a stream that has ended"


def test_what_is_damaged_is_said_and_read_anew(llama, tmp_path: Path) -> None:
    ids = tiny.tokens(60)
    kept = UnfinishedStream(tmp_path, "one", every=0)
    with pytest.raises(Stopped):
        stream_perplexity(llama, ids, TreeKVCache(CONFIG, llama.config), 8, stop_at(24), unfinished=kept)
    (tmp_path / "one-24.safetensors").write_bytes(b"short")
    with pytest.warns(UserWarning, match="a kept stream cannot be read and is read anew"):
        found = stream_perplexity(llama, ids, TreeKVCache(CONFIG, llama.config), 8, unfinished=kept)
    whole = stream_perplexity(llama, ids, TreeKVCache(CONFIG, llama.config), chunk=8)
    torch.testing.assert_close(found.nll, whole.nll)


def test_a_kill_between_the_two_files_leaves_the_state_before(llama, tmp_path: Path, monkeypatch) -> None:
    ids = tiny.tokens(60)
    kept = UnfinishedStream(tmp_path, "one", every=0)
    with pytest.raises(Stopped):
        stream_perplexity(llama, ids, TreeKVCache(CONFIG, llama.config), 8, stop_at(24), unfinished=kept)
    monkeypatch.setattr("analysis.evaluation.unfinished.save_file", lambda *_: (_ for _ in ()).throw(Stopped))
    with pytest.raises(Stopped):
        stream_perplexity(llama, ids, TreeKVCache(CONFIG, llama.config), 8, unfinished=kept)
    monkeypatch.undo()
    assert {file.name for file in tmp_path.glob("*.treekv")} == {"one-24.treekv", "one-32.treekv"}
    with pytest.warns(UserWarning, match="read anew"):
        cache, nll, _ = UnfinishedStream(tmp_path, "one").load(llama)
    assert cache.get_seq_length() == nll.shape[1] == 24


def test_a_folder_that_cannot_be_written_costs_the_states_and_not_the_stream(llama, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    kept = UnfinishedStream(tmp_path / "file" / "below", "one", every=0)
    with pytest.warns(UserWarning, match="a long stream cannot be kept while it is read") as said:
        found = stream_perplexity(llama, tiny.tokens(60), TreeKVCache(CONFIG, llama.config), 8, unfinished=kept)
    assert len(said) == 1 and found.nll.shape == (1, 59)


def test_a_large_cache_is_not_kept(llama, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("analysis.evaluation.unfinished.MOST_BYTES", 100)
    kept = UnfinishedStream(tmp_path / "u", "one", every=0)
    with pytest.raises(Stopped):
        stream_perplexity(llama, tiny.tokens(60), TreeKVCache(CONFIG, llama.config), 8, stop_at(24), unfinished=kept)
    assert not (tmp_path / "u").exists()


def test_other_weights_do_not_go_on_with_a_state(llama, tmp_path: Path) -> None:
    ids, kept = tiny.tokens(60), UnfinishedStream(tmp_path, "one", every=0)
    with pytest.raises(Stopped):
        stream_perplexity(llama, ids, TreeKVCache(CONFIG, llama.config), 8, stop_at(24), unfinished=kept)
    other = tiny.llama()
    with torch.no_grad():
        other.model.embed_tokens.weight.add_(0.5)
    with pytest.warns(UserWarning, match="read anew"):
        assert kept.load(other) is None


def test_a_sweep_goes_on_inside_a_document(llama, tmp_path: Path, monkeypatch) -> None:
    """What was interrupted in the middle of a text is not read again from its beginning."""
    monkeypatch.setattr(UnfinishedStream.__init__, "__defaults__", (0.0,))
    (tmp_path / "a.txt").write_text(" ".join(f"w{i % 30}" for i in range(200)))
    task = {"task": "ppl", "files": [str(tmp_path / "a.txt")], "lengths": [90], "count": 1, "decode_block": 4}
    grid = parse_grid({"models": ["m"], "policies": ["tree"], "budgets": [16], "tasks": [task]})
    monkeypatch.setattr("analysis.evaluation.tasks.perplexity.PASS_TOKENS", 8)
    read: list[int] = []

    def interrupt(done: int, total: int) -> None:
        read.append(done)
        if len(read) == 5:
            raise KeyboardInterrupt

    def start():
        return OneProcess(lambda _: (llama, Words()), tmp_path / "r" / "unfinished")

    results = Results(tmp_path / "r")
    assert run_sweep(grid, results, start, create=create, progress=interrupt).interrupted
    assert read == [8, 16, 24, 32, 40] and (tmp_path / "r" / "unfinished").exists()
    outcome = run_sweep(grid, results, start, create=create, progress=interrupt)
    assert outcome.complete and read[5:] == [48, 56, 64, 72, 80, 88, 90]
    assert not (tmp_path / "r" / "unfinished").exists()
    [record] = results.read()
    other = Results(tmp_path / "other")
    run_sweep(grid, other, lambda: OneProcess(lambda _: (llama, Words())), create=create)
    assert other.read()[0].scores == pytest.approx(record.scores, rel=1e-5)
