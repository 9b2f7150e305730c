"""The demo's text is prose: long enough, always the same, without markup."""

from __future__ import annotations

import re

import pytest

from app.runs.sample_text import _prose, sample_text


def test_it_is_long_enough_and_deterministic() -> None:
    text = sample_text()
    assert len(text.split()) > 4096  # a token is at most a word
    assert text == sample_text()


def test_it_has_no_markup_and_no_paragraph_twice() -> None:
    lines = sample_text().splitlines()
    assert len(lines) == len(set(lines))
    assert not [line for line in lines if "::=" in line or '"' in line or re.search(r"[=+-]{3,}|\*{3,}", line)]
    assert all(len(line.split()) >= 12 and line[-1] in ".:?" for line in lines)


@pytest.mark.parametrize(
    "dropped",
    [
        "A heading of many words that goes on and on and on\n***********************************************",
        "   indented(code) that has many words in it, enough to pass as prose, and ends with a stop.",
        "* a list item that has many words in it, enough to pass as prose, and ends with a stop.",
        "2. a list item that has many words in it, enough to pass as prose, and ends with a stop.",
        "stmt ::= a grammar that has many words in it, enough to pass as prose, and ends with a stop.",
        "+------+------+\n| a table that has many words in it | enough to pass as prose, and ends with a stop. |",
        "Too short.",
        "A paragraph that has many words in it, enough to pass as prose, without a stop",
    ],
)
def test_what_is_left_out(dropped: str) -> None:
    assert _prose(dropped) == []


def test_marks_of_emphasis_and_footnotes_go_and_operators_stay() -> None:
    topic = (
        'The "for" statement is *used* to iterate, see **here** [1], over the\nelements of x * y and of "except*" '
        "clauses, as often as it takes."
    )
    assert _prose(topic) == [
        "The for statement is used to iterate, see here, over the elements of x * y and of except* clauses, "
        "as often as it takes."
    ]
