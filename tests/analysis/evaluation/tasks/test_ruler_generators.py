"""Generated documents of RULER have the answers that they say."""

from __future__ import annotations

import json
import re
from collections import Counter

import pytest

from analysis.evaluation import create
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
