"""Windows are cut without overlap, evenly from all texts."""

import pytest
import torch

from analysis.paper.windows import MOST, cut_windows
from treekv import TreeKVError


class Words:
    """A tokenizer of one token a word, with a special token before every text."""

    def __call__(self, text, add_special_tokens=True, verbose=True):
        ids = [int(word) if word.isdigit() else 7 for word in text.split()]
        return {"input_ids": [1, *ids] if add_special_tokens else ids}


def test_windows_are_spread_evenly_and_do_not_overlap():
    texts = {"long": range(100, 200), "short": torch.arange(30, 55)}
    windows = cut_windows(None, texts, 10, 5)
    # The long one has ten windows, of which the middles of three equal parts; the short one has two and gives both.
    assert windows.names == ["long", "short"]
    assert windows.text == [0, 0, 0, 1, 1]
    assert windows.start == [10, 50, 80, 0, 10]
    assert windows.ids.tolist() == [
        *(list(range(100 + start, 110 + start)) for start in (10, 50, 80)), list(range(30, 40)), list(range(40, 50)),
    ]  # fmt: skip


def test_every_window_is_taken_once_when_no_number_is_given():
    windows = cut_windows(None, [range(100, 200), range(30, 55)], 10)
    assert windows.names == ["text-000", "text-001"]
    assert windows.start == [*range(0, 100, 10), 0, 10]
    assert len(cut_windows(None, [[5] * (2 * MOST + 100)], 2).ids) == MOST


def test_a_window_of_a_string_starts_with_the_special_tokens():
    windows = cut_windows(Words(), " ".join(map(str, range(20, 50))), 10)
    assert windows.ids.tolist() == [[1, *range(20, 29)], [1, *range(29, 38)], [1, *range(38, 47)]]
    assert windows.start == [0, 9, 18]


@pytest.mark.parametrize(
    ("tokenizer", "texts", "samples", "words"),
    [
        (None, [], None, "no text to cut"),
        (None, {"novel": "some words"}, None, "'novel' needs a tokenizer"),
        (Words(), {"long": "a " * 50, "note": "a b c"}, None, "'note' has 4 tokens, fewer than a window of 10"),
        (None, [range(100)], 11, "samples is 11; the texts have 10 windows of 10 tokens"),
        (None, [range(100)], 0, "samples is 0"),
        (None, [3, 4, 5], None, "'text-000' is a single number"),
    ],
)
def test_bad_input_is_refused(tokenizer, texts, samples, words):
    with pytest.raises(TreeKVError, match=words):
        cut_windows(tokenizer, texts, 10, samples)
