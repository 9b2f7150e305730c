"""Texts from files, folders and the hub, and one sentence for each problem."""

from __future__ import annotations

import datasets
import huggingface_hub
import pytest

from analysis.evaluation import create
from analysis.evaluation.tasks import texts
from tests.analysis.evaluation.words import Words
from treekv import TreeKVError


def test_a_hub_that_cannot_be_reached_is_one_sentence(monkeypatch):
    def refuse(self, name, timeout):
        assert timeout < 60
        raise ConnectionError("no route to host.\nmore")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", refuse)
    with pytest.raises(TreeKVError) as caught:
        create("ppl", dataset="pg19").documents(Words())
    assert str(caught.value) == (
        "the data set 'emozilla/pg19' cannot be loaded from the hub: no route to host; give local files instead"
    )


def test_a_data_set_that_breaks_off_is_one_sentence(monkeypatch):
    def rows(*_, **__):
        yield {"text": "w"}
        raise ValueError("Bad split: tset")

    monkeypatch.setattr(datasets, "load_dataset", rows)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *_, **__: None)
    with pytest.raises(TreeKVError, match=r"'emozilla/pg19' \(split tset\) cannot be loaded .*: Bad split: tset; give"):
        create("ppl", dataset="pg19", split="tset").documents(Words())


def test_files_that_are_not_there(tmp_path):
    for path, sentence in ((tmp_path, "has no .txt or .md or .jsonl file"), (tmp_path / "x.txt", "there is no file")):
        with pytest.raises(TreeKVError, match=sentence):
            create("ppl", files=[str(path)]).documents(Words())
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe")
    (tmp_path / "empty.md").write_text(" \n")
    for name, sentence in (("bad.txt", "is not UTF-8 text"), ("empty.md", "is empty")):
        with pytest.raises(TreeKVError, match=sentence):
            create("ppl", files=[str(tmp_path / name)]).documents(Words())


def test_files_are_found_by_path_folder_and_pattern_each_once(tmp_path):
    for name in ("b.txt", "a.txt", "c.md", "d.csv"):
        (tmp_path / name).write_text("text")
    found = texts.find([str(tmp_path / "b.txt"), str(tmp_path), str(tmp_path / "*.md")], [".txt", ".md"])
    assert [file.name for file in found] == ["b.txt", "a.txt", "c.md"]
    assert texts.names([str(tmp_path / "b.txt"), "novels/"]) == ["b.txt", "novels"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('{"text": "a"}\n{"text": ', "is not JSON lines: .* in line 2"),
        ('{"text": "a"}\n\n[1]', "is not JSON lines of objects: line 3 is list"),
        ('{"text": ' + "[" * 100_000, "is not JSON lines: nested too deeply in line 1"),
        ('{"text": ' + "9" * 5000 + "}", "is not JSON lines: a number has too many digits in line 1"),
        ('{"body": "a"}', "lacks the column text; it has body"),
    ],
)
def test_rows_that_are_no_objects_are_named_by_their_line(tmp_path, content, sentence):
    file = tmp_path / "rows.jsonl"
    file.write_text(content)
    with pytest.raises(TreeKVError, match=sentence):
        texts.read_rows(file, ["text"])
    file.write_text('{"text": "a"}\n\n{"text": "b", "more": 1}\n')
    assert texts.read_rows(file, ["text"]) == [{"text": "a"}, {"text": "b", "more": 1}]
