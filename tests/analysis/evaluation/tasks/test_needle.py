"""Tasks "needle" and "passkey", and how answers come about: what is hidden is where it is said to be."""

from __future__ import annotations

import json
import random
import re

import pytest

from analysis.evaluation import create
from tests.analysis.evaluation.words import Words
from treekv import TreeKVConfig, TreeKVError


@pytest.fixture
def book(tmp_path):
    draw = random.Random(0)
    text = ". ".join(" ".join(f"w{draw.randrange(400)}" for _ in range(draw.randint(3, 15))) for _ in range(300))
    (tmp_path / "book.txt").write_text(text + ".")
    return str(tmp_path / "book.txt")


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("name", ["needle", "passkey"])
@pytest.mark.parametrize("keys", [1, 4])
def test_the_needle_is_at_the_stated_depth_and_the_length_is_kept(name, keys, bos, book):
    tokenizer = Words(bos)
    task = create(name, lengths=[300, 700], depths=[0, 30, 100], keys=keys, haystacks=[book, "noise"], samples=2)
    documents = task.documents(tokenizer)
    assert len({document.key for document in documents}) == len(documents) == 2 * 2 * 3 * 2
    for document in documents:
        data = document.data
        context, question = task.prompt_ids(tokenizer, data)
        assert data["tokens"] == len(context) + len(question)
        assert data["length"] - 20 <= data["tokens"] + data["new_tokens"] <= data["length"]
        assert data["answers"][0] not in data["question"] + data["start"]
        value = data["context"].index(data["answers"][0])
        begin = data["context"].rindex("The ", 0, value)
        before = len(tokenizer(data["context"][:begin], add_special_tokens=False)["input_ids"])
        assert data["at"] == pytest.approx(100 * before / len(context), abs=1)
        # Within half a sentence, the introduction, the end and the distractors of what was asked for.
        assert before == pytest.approx(data["depth"] / 100 * len(context), abs=30 + 20 * keys)
        assert json.loads(json.dumps(data)) == data


def test_every_number_has_one_owner_and_the_asked_one_the_answer(book):
    for document in create("needle", lengths=[400], keys=6, haystacks=[book]).documents(Words()):
        said = dict(re.findall(r"The secret number of the ([\w ]+) is (\d{4})\.", document.data["context"]))
        assert len(said) == len(set(said.values())) == 6
        asked = re.search(r"secret number of the ([\w ]+)\?", document.data["question"])[1]
        assert document.data["answers"] == [said[asked]]


def test_a_seed_gives_the_same_text_and_another_seed_another():
    def make(seed):
        return create("needle", lengths=[200], seed=seed, haystacks=["pydoc"]).documents(Words())

    assert make(1) == make(1)
    assert all(a.key == b.key and a.data["context"] != b.data["context"] for a, b in zip(make(1), make(2)))


def test_depths_and_samples_hide_different_numbers():
    answers = [d.data["answers"][0] for d in create("passkey", lengths=[200]).documents(Words())]
    assert len(set(answers)) == len(answers) == 10


def test_uuids():
    document = create("needle", lengths=[400], digits=0, samples=1).documents(Words())[0]
    assert re.fullmatch(
        r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", *document.data["answers"]
    )


def test_no_room():
    with pytest.raises(TreeKVError, match=r"no room for a haystack in \d+: choose a greater length or hide less"):
        create("needle", lengths=[100], keys=20).documents(Words())


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"depths": [50, 101]}, "depths must be percents between 0 and 100, got 101"),
        ({"depths": []}, "depths must have at least one entry"),
        ({"lengths": 10}, "lengths must be a whole number of at least 64, got 10"),
        ({"keys": 0}, "keys must be a whole number of at least 1"),
        ({"question": "hidden"}, "question must be one of given, withheld, got 'hidden'"),
        ({"haystacks": ["a/x.txt", "b/x.txt"]}, "haystacks has 'x.txt' twice"),
        ({"chat": 1}, "chat must be true or false"),
    ],
)
def test_impossible_options(given, sentence):
    with pytest.raises(TreeKVError, match=sentence):
        create("needle", **given)


def test_the_real_model_finds_a_single_needle_with_the_full_cache_and_loses_it_with_recent_tokens_alone(smollm2):
    model, tokenizer = smollm2
    task = create("needle", lengths=[256], depths=[30], samples=1, keys=1, new_tokens=8)
    document = task.documents(tokenizer)[0]
    assert task.run(model, tokenizer, None, document).scores["score"] == 100
    config = TreeKVConfig(policy="streaming", cache_size=64)
    assert task.run(model, tokenizer, config, document).scores["score"] == 0
