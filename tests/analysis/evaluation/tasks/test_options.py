"""Each check accepts what it should and names option, value and what is accepted."""

from __future__ import annotations

import pytest

from analysis.evaluation.tasks import options
from treekv import TreeKVError


def test_what_is_right_is_returned() -> None:
    assert options.require_int("n", 3, 3, 3) == 3
    assert options.require_ints("n", 5, 1) == [5] and options.require_ints("n", (5, 6), 1) == [5, 6]
    assert options.require_percents("p", [0, 12.5, 100]) == [0, 12.5, 100]
    assert options.require_bool("b", False) is False
    assert options.require_choice("c", "x", ("x", "y")) == "x"
    assert options.require_texts("t", "one") == ["one"]


@pytest.mark.parametrize(
    ("check", "sentence"),
    [
        (lambda: options.require_int("n", 2, 3), "n must be a whole number of at least 3, got 2"),
        (lambda: options.require_int("n", 9, 3, 8), "n must be a whole number between 3 and 8, got 9"),
        (lambda: options.require_int("n", True, 0), "got True"),
        (lambda: options.require_int("n", 3.0, 0), "got 3.0"),
        (lambda: options.require_ints("n", [4, 5, 4], 1), "n has 4 twice"),
        (lambda: options.require_ints("n", [], 1), "n must have at least one entry"),
        (lambda: options.require_percents("p", [True]), "p must be percents between 0 and 100, got True"),
        (lambda: options.require_bool("b", 0), "b must be true or false, got 0"),
        (lambda: options.require_choice("c", "z", ("x", "y")), "c must be one of x, y, got 'z'"),
        (lambda: options.require_texts("t", ["a", ""]), "t must be text, got ''"),
        (lambda: options.require_texts("t", ["a", "a"]), "t has 'a' twice"),
    ],
)
def test_what_is_wrong_is_named(check, sentence: str) -> None:
    with pytest.raises(TreeKVError) as raised:
        check()
    assert sentence in str(raised.value)
