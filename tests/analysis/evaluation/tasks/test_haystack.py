"""Haystacks have the sentences of their source, and names and numbers that differ."""

from __future__ import annotations

import random

import pytest

from analysis.evaluation.tasks import haystack
from analysis.evaluation.tasks.tokens import count_tokens
from tests.analysis.evaluation.words import Words
from treekv import TreeKVError


def test_things_run_out():
    draw = random.Random(0)
    with pytest.raises(TreeKVError, match="only 9 numbers of 1 digits, 10 are needed"):
        haystack.draw_numbers(draw, 10, 1)
    with pytest.raises(TreeKVError, match="names for hidden things, 100000 are needed"):
        haystack.draw_names(draw, 100000)
    assert len(set(haystack.draw_names(draw, 5000))) == 5000


def test_sentences_of_a_folder(tmp_path):
    (tmp_path / "b.txt").write_text('Third one?  "Fourth." ' + "word " * 70)
    (tmp_path / "a.txt").write_text("First one.\nSecond one!\n\nA heading\n\n")
    found = haystack.sentences(str(tmp_path))
    assert found[:3] == ["First one.", "Second one!", "A heading"]
    assert found[3] == "Third one?"
    assert [len(sentence.split()) for sentence in found[-2:]] == [60, 10]


def test_words_are_distinct_lower_case_and_of_four_to_nine_letters(tmp_path):
    (tmp_path / "text.txt").write_text("The cat sat; Cats purr, cats' tails curl. It isn't half-baked: extraordinary!")
    assert haystack.words(str(tmp_path / "text.txt")) == ["curl", "purr", "tails"]


def test_a_rotated_haystack_has_the_same_sentences_from_another_one_on():
    hay = [f"Sentence {number}." for number in range(9)]
    found = haystack.rotate(hay, random.Random(1))
    first = hay.index(found[0])
    assert found == hay[first:] + hay[:first]
    assert len({haystack.rotate(hay, random.Random(seed))[0] for seed in range(20)}) > 1


@pytest.mark.parametrize("room", [40, 77, 150])
def test_hidden_sentences_are_where_they_are_said_to_be(room):
    tokenizer, things = Words(bos=False), ["The key is red.", "The door is blue."]
    hidden = haystack.hide(tokenizer, haystack.sentences("noise"), things, [0, 100], room, "Read this: ")
    assert [hidden.text[start:][: len(thing)] for start, thing in zip(hidden.starts, things)] == things
    assert hidden.starts[0] == 0 and hidden.text.endswith(things[1])
    assert room - 6 < count_tokens(tokenizer, "Read this: " + hidden.text) <= room
