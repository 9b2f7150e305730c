"""A record is on the disk whole or not at all, whatever happens while it is written."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from analysis.evaluation.sweep import records
from analysis.evaluation.sweep.records import Definition, Record, Results
from treekv import TreeKVError

OF = Definition("m", None, None, "task", {"length": 3}, "tree", {"cache_size": 8}, 8, 0, "d0", "abc")


def made(score: float = 1.5, of: Definition = OF, **changes) -> Record:
    return Record(of=of, scores={"loss": score}, detail={"answer": "ä\n"}, facts={"depth": 2}, seconds=0.5, **changes)


@pytest.fixture
def results(tmp_path: Path) -> Results:
    results = Results(tmp_path / "results")
    results.create()
    return results


def test_what_is_written_is_read(results: Results) -> None:
    other = made(2.5, dataclasses.replace(OF, document="d1"), error="OSError: no")
    results.write(made())
    results.write(other)
    assert sorted(Results(results.path).read(), key=lambda record: str(record.of.document)) == [made(), other]
    assert results.get(OF.key) == made()
    results.remove(OF.key)
    assert results.get(OF.key) is None
    results.remove(OF.key)


def test_the_key_follows_from_everything_that_defines_a_record_and_nothing_else() -> None:
    changes = {
        "model": "n", "dtype": "float16", "device": "cuda", "task": "other", "options": {"length": 4}, "name": "x",
        "config": None, "budget": "5%", "seed": 1, "document": "d1", "content": "abd",
    }  # fmt: skip
    assert set(changes) == {field.name for field in dataclasses.fields(Definition)}
    keys = {dataclasses.replace(OF, **{name: value}).key for name, value in changes.items()} | {OF.key}
    assert len(keys) == len(changes) + 1
    turned = dataclasses.replace(OF, options=dict(reversed({"a": 1, "b": 2}.items())))
    assert turned.key == dataclasses.replace(OF, options={"a": 1, "b": 2}).key
    # Fixed for good: results of today are found tomorrow.
    assert OF.key == "b638ea8a923722df978456a7d74bc571"


def test_a_newer_record_replaces_the_older(results: Results) -> None:
    results.write(Record(of=OF, error="out of memory"))
    results.write(made())
    assert results.read() == [made()]


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: text.replace('"d0"', '"d1"'),
        lambda text: text.replace("1.5", "NaN"),
        lambda text: text.replace('"scores": {"loss": 1.5}', '"scores": {}'),
    ],
)
def test_a_damaged_file_is_named_and_left_out(results: Results, damage) -> None:
    results.write(made())
    results.write(made(2.0, dataclasses.replace(OF, seed=1)))
    file = results.path / "records" / f"{OF.key}.json"
    file.write_text(damage(file.read_text(encoding="utf-8")), encoding="utf-8")
    assert [record.of.seed for record in results.read()] == [1]
    assert results.damaged == [file.name]
    assert results.get(OF.key) is None


def _write_and_die(path: Path, call: str, count: int, before: bool) -> None:
    """Write a second version of a record and be killed around the count-th use of a call of the system."""
    original = getattr(os, call)
    calls = 0

    def deadly(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == count and before:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **kwargs)
        if calls == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(os, call, deadly)
    Results(path).write(made(2.5))
    os._exit(1)  # the call was not met


@pytest.mark.parametrize("there_before", [False, True])
@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize(("call", "count"), [("fsync", 1), ("replace", 1), ("open", 1), ("fsync", 2), ("close", 1)])
def test_a_kill_at_any_step_of_the_write_leaves_the_old_record_or_the_new(
    results: Results, call: str, count: int, before: bool, there_before: bool
) -> None:
    if there_before:
        results.write(made())
    process = multiprocessing.get_context("fork").Process(
        target=_write_and_die, args=(results.path, call, count, before)
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    renamed = (call, count) not in (("fsync", 1), ("replace", 1)) or ((call, before) == ("replace", False))
    expected = [made(2.5)] if renamed else [made()] if there_before else []
    assert results.read() == expected
    assert results.damaged == []
    left = [file for file in (results.path / "records").iterdir() if file.suffix == ".tmp"]
    assert len(left) == (0 if renamed else 1)
    results.write(made(3.5))
    assert results.read() == [made(3.5)]
    for file in left:
        os.utime(file, (0, 0))
    results.create()  # the next run removes it
    assert not [file for file in (results.path / "records").iterdir() if file.suffix == ".tmp"]


def test_the_bytes_are_on_the_disk_before_the_name_points_to_them(
    results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = []
    for call in ("fsync", "replace"):
        original = getattr(os, call)
        monkeypatch.setattr(os, call, lambda *a, call=call, original=original: (order.append(call), original(*a))[1])
    results.write(made())
    assert order == ["fsync", "replace", "fsync"]


def test_a_full_disk_is_one_sentence_and_what_was_there_stays(
    results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    results.write(made())

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TreeKVError, match=r"cannot write .*: No space left on device"):
        results.write(made(2.5))
    assert results.read() == [made()]
    assert [file.suffix for file in (results.path / "records").iterdir()] == [".json"]


def test_only_folders_of_results_are_taken(tmp_path: Path) -> None:
    for name, make, sentence in (
        ("file", lambda path: path.write_text("x"), "are a file; give the name of a folder"),
        ("other", lambda path: (path.mkdir(), (path / "thesis.tex").touch()), "contains something other than results"),
    ):
        make(tmp_path / name)
        with pytest.raises(TreeKVError, match=sentence):
            Results(tmp_path / name).create()
    with pytest.raises(TreeKVError, match="there is no results folder"):
        Results(tmp_path / "none").read()
    with pytest.raises(TreeKVError, match="is not a results folder"):
        Results(tmp_path / "other").read()
    newer = tmp_path / "newer"
    newer.mkdir()
    (newer / "results.json").write_text(json.dumps({"format": records.FORMAT, "version": 2}))
    with pytest.raises(TreeKVError, match="have version 2, this TreeKV reads up to 1"):
        Results(newer).create()


def test_a_kill_while_the_folder_is_made_leaves_one_that_can_be_used(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / ".results.json.123.tmp").write_text("{")
    Results(empty).create()
    assert Results(empty).read() == []
