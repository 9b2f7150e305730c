"""Task "ruler": every generator against what its answers must follow from, and the published file format."""

from __future__ import annotations

import json

import pytest

from analysis.evaluation import create
from analysis.evaluation.tasks import answering, ruler
from analysis.evaluation.tasks.ruler_generators import GENERATORS
from tests.analysis.evaluation.words import Words
from treekv import TreeKVError


def test_all_kinds_are_generated_by_default():
    keys = [document.key for document in create("ruler", samples=1, lengths=[800]).documents(Words())]
    assert keys == [f"{kind}-800-0" for kind in GENERATORS]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"kinds": ["double"]}, "kinds must be one of single, multikey, .*, got 'double'"),
        ({"rare": 20}, r"rare must be less than common \(20\), got 20"),
        ({"keys": 1}, "keys must be a whole number of at least 2"),
        ({"new_tokens": 0}, "new_tokens must be a whole number of at least 1"),
    ],
)
def test_impossible_options(given, sentence):
    with pytest.raises(TreeKVError, match=sentence):
        create("ruler", **given)


# ---------------------------------------------------------------------- files


def test_what_is_written_is_read_again(tmp_path):
    tokenizer = Words()
    task = create("ruler", samples=2, lengths=[700])
    documents = task.documents(tokenizer)
    files = ruler.write(documents, tmp_path / "new")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(file.name for file in files)
    again = create("ruler", files=[str(file) for file in files]).documents(tokenizer)
    assert len(again) == len(documents)
    for document, read in zip(documents, again):
        for field in ("question", "start", "answers", "new_tokens", "tokens", "length", "subtask", "any"):
            if field != "question":
                assert read.data[field] == document.data[field], field
        assert read.data["context"] + read.data["question"] == document.data["context"] + document.data["question"]
        assert read.data["question"].startswith("\nQuestion: ")


def test_published_rows(tmp_path):
    folder = tmp_path / "qa_1"
    folder.mkdir()
    rows = [
        {"index": 0, "input": "Documents.\n\nSome text.\n\nQuestion: Who?", "outputs": ["Ann", "Bob"], "length": 9},
        {"index": 1, "input": "one line", "outputs": ["x"]},
        {"index": 2, "input": "", "outputs": ["x"]},
        {"index": 3, "input": "a\nb", "outputs": []},
        {"index": 4, "input": "a\nb"},
    ]
    (folder / "validation.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = create("ruler", files=[str(folder)])
    good, *bad = task.documents(Words())
    assert good.key == "qa_1-validation-1" and good.data["subtask"] == "qa_1" and good.data["length"] == 9
    assert good.data["context"] == "Documents.\n\nSome text.\n" and good.data["question"] == "\nQuestion: Who?"
    assert good.data["new_tokens"] == 128 and good.data["start"] == ""
    assert task.score(good.data, "It was bob.") == 1
    for document, sentence in zip(
        bad, ("an input of one line", "has no input", "has no outputs", "line 5 lacks the column outputs")
    ):
        with pytest.raises(TreeKVError, match=sentence):
            task.run(None, Words(), None, document)
    assert task.settings == {"files": ["qa_1"], "new_tokens": None, "question": "given", "chat": False}


def test_a_file_without_the_columns_fails_as_a_whole_and_alone(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"prompt": "a", "answer": "b"}\n')
    (tmp_path / "y.jsonl").write_text('{"input": "a", \n')
    (tmp_path / "z.jsonl").write_text('{"input": "a\\nb?", "outputs": ["c"]}\n')
    columns, json, good = create("ruler", files=[str(tmp_path)]).documents(Words())
    assert "lacks the column input, outputs; it has answer, prompt" in columns.data["error"]
    assert "is not JSON lines" in json.data["error"] and json.data["subtask"] == "y"
    assert "error" not in good.data


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    documents = create("ruler", kinds=["single"], samples=1, lengths=[200]).documents(Words())
    with pytest.raises(TreeKVError, match="cannot write"):
        ruler.write(documents, tmp_path / "file" / "new")


def test_the_answer_of_a_model_is_scored(llama, monkeypatch):
    task = create("ruler", kinds=["multivalue"], lengths=[400], samples=1, keys=4)
    document = task.documents(Words())[0]
    half = " and ".join(document.data["answers"][:2])
    monkeypatch.setattr(answering, "generate_answer", lambda *_, **__: answering.Answer(half, 9, 1, 2, 3))
    assert task.run(llama, Words(), None, document).scores["score"] == 50
