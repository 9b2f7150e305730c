"""Task "ruler": every generator against what its answers must follow from, and the published file format."""

from __future__ import annotations

import json
import re
from collections import Counter

import pytest

from analysis.evaluation import create
from analysis.evaluation.tasks import answering, ruler
from analysis.evaluation.tasks.ruler_generators import GENERATORS
from tests.analysis.evaluation.words import Words
from treekv import TreeKVError


def made(kind, **changes):
    """Documents of one kind, checked for what holds for all kinds."""
    tokenizer = Words()
    task = create("ruler", **{"kinds": [kind], "lengths": [400, 900], "samples": 3, **changes})
    documents = task.documents(tokenizer)
    assert documents == create("ruler", **{"kinds": [kind], "lengths": [400, 900], "samples": 3, **changes}).documents(
        Words()
    )
    other = create("ruler", **{"kinds": [kind], "lengths": [400, 900], "samples": 3, "seed": 5, **changes})
    assert all(a.data["context"] != b.data["context"] for a, b in zip(documents, other.documents(Words())))
    assert len({document.key for document in documents}) == len(documents) == 6
    for document in documents:
        data = document.data
        context, question = task.prompt_ids(tokenizer, data)
        assert data["tokens"] == len(context) + len(question) > 0.75 * data["length"]
        assert data["tokens"] + data["new_tokens"] <= data["length"]
        assert json.loads(json.dumps(data)) == data
        assert task.score(data, ", ".join(data["answers"]).upper()) == 1
        assert task.score(data, data["answers"][0]) == pytest.approx(1 / len(data["answers"]))
        assert task.score(data, "") == 0
    return [document.data for document in documents]


@pytest.mark.parametrize(
    ("kind", "things", "numbers", "asked"),
    [("single", 1, 1, 1), ("multikey", 5, 1, 1), ("multivalue", 1, 5, 1), ("multiquery", 5, 1, 5)],
)
def test_needles(kind, things, numbers, asked):
    for data in made(kind, keys=5):
        owners = {}
        for key, value in re.findall(r"secret numbers? of the ([\w ]+) is (\d{4})\.", data["context"]):
            owners.setdefault(key, []).append(value)
        assert len(owners) == things and all(len(values) == numbers for values in owners.values())
        wanted = re.search(r"of (the .*)\?", data["question"])[1]
        names = re.findall(r"the (\w+ \w+)", wanted)
        assert len(names) == asked
        assert sorted(data["answers"]) == sorted(value for name in names for value in owners[name])


@pytest.mark.parametrize("chains", [1, 3])
def test_variables_can_be_followed(chains):
    for data in made("tracking", hops=3, chains=chains):
        example, text = data["context"].rsplit("Follow the variables", 1)
        values = {}
        for name, given in re.findall(r"VAR ([A-Z]{3}) = (?:VAR )?(\w+)\.", text):
            values[name] = values.get(given, given)  # in the order of the text: nothing is used before it is there
        assert len(values) == 4 * chains and all(value.isdigit() for value in values.values())
        asked = re.search(r"value (\d+)\?", data["question"])[1]
        assert data["answers"] == [name for name, value in values.items() if value == asked]
        assert len(data["answers"]) == 4
        shown = re.search(r"value (\d+) are ([A-Z, ]+)\.", example)
        assert shown[1] not in text and not set(shown[2].split(", ")) & set(values)


def test_common_words_are_the_most_common():
    for data in made("common", common=12, rare=2, asked=4):
        entries = re.findall(r"(\d+)\. (\w+)", data["context"])
        assert [int(number) for number, _ in entries] == list(range(1, len(entries) + 1))
        counts = Counter(word for _, word in entries)
        assert {word for word, number in counts.items() if number == 12} == set(data["answers"])
        assert {number for word, number in counts.items() if word not in data["answers"]} == {2}


def test_frequent_words_are_the_three_most_frequent_in_order():
    for data in made("frequent"):
        entries = data["context"].split("\n\n")[1].split()
        counts = Counter(entries)
        assert counts.most_common(1)[0][0] == "..."
        del counts["..."]
        top = counts.most_common(4)
        assert [word for word, _ in top[:3]] == data["answers"]
        assert top[0][1] > top[1][1] > top[2][1] > (top[3][1] if len(top) > 3 else 0)


def test_all_kinds_are_generated_by_default():
    keys = [document.key for document in create("ruler", samples=1, lengths=[800]).documents(Words())]
    assert keys == [f"{kind}-800-0" for kind in GENERATORS]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"kinds": ["single"], "lengths": [128], "new_tokens": 100}, "kind 'single', length 128: .* no room"),
        ({"kinds": ["common"], "lengths": [256]}, "5 words 20 times and one more 2 times do not fit into"),
        ({"kinds": ["common"], "haystack": "noise"}, "haystack has 1[0-9] different words, more than 30 are needed"),
        ({"kinds": ["frequent"], "lengths": [128], "new_tokens": 80}, "no code with three words"),
    ],
)
def test_a_length_without_room(given, sentence):
    with pytest.raises(TreeKVError, match=sentence):
        create("ruler", **{"asked": 30 if "haystack" in given else 5, **given}).documents(Words())


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
