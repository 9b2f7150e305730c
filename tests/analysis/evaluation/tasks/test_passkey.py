"""A pass key has no name but that, is stated twice, and no distractor is called one."""

from __future__ import annotations

import re

from analysis.evaluation import create
from tests.analysis.evaluation.words import Words


def test_the_pass_key_is_stated_twice_and_asked_for() -> None:
    for document in create("passkey", lengths=[200, 400], depths=[0, 60], samples=2).documents(Words()):
        data = document.data
        (number,) = data["answers"]
        assert len(number) == 5
        assert data["context"].count(number) == 2
        assert re.findall(r"\d+", data["context"]) == [number, number]
        assert data["question"] == "\n\nQuestion: What is the pass key?" and number not in data["question"]


def test_distractors_say_that_they_are_no_pass_keys() -> None:
    task = create("passkey", lengths=[400], depths=[50], samples=1, keys=4)
    data = task.documents(Words())[0].data
    stated = re.findall(r"The number (\d+) is of no use\. It is not the pass key\.", data["context"])
    assert len(set(stated)) == 3 and data["answers"][0] not in stated
    assert task.score(data, f"It is {data['answers'][0]}.") == 1
    assert task.score(data, " ".join(stated)) == 0
