"""Scores of an answer against the expected one, between 0 and 1, as the benchmarks define them.

LongBench's are those of its published scorer (https://github.com/THUDM/LongBench, metrics.py), RULER's those of its
own (https://github.com/NVIDIA/RULER, scripts/eval). An empty answer scores 0 everywhere.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Hashable, Sequence

from treekv.errors import TreeKVError


def match_all(answer: str, expected: Sequence[str]) -> float:
    """RULER: the share of the expected strings that the answer contains, ignoring case."""
    _require_expected(expected)
    found = answer.lower()
    return sum(text.lower() in found for text in expected) / len(expected)


def match_part(answer: str, expected: Sequence[str]) -> float:
    """RULER, question answering: 1 if the answer contains any of the expected strings."""
    _require_expected(expected)
    return float(any(text.lower() in answer.lower() for text in expected))


def qa_f1(answer: str, expected: str) -> float:
    """F1 of the words in common, after removing case, punctuation and articles.

    Example:
        >>> round(qa_f1("The cat sat.", "a cat sat down"), 3)
        0.8
    """
    ours, theirs = _words(answer), _words(expected)
    common = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * common / (len(ours) + len(theirs)) if common else 0.0


def rouge_l(answer: str, expected: str) -> float:
    """ROUGE-L as LongBench takes it from the package `rouge`: at summary level, over distinct words.

    Sentences end at full stops; words are separated by spaces and keep case and punctuation. For every pair of
    sentences the words of a longest common subsequence are collected in one set, whose size is compared with the
    numbers of distinct words of both texts. (That package fails on sentences of about a thousand words, and
    LongBench then scores 0; here they are scored.)
    """
    ours, theirs = _sentences(answer), _sentences(expected)
    if not ours or not theirs:
        return 0.0
    shared = {word for one in theirs for other in ours for word in _common_subsequence(one, other)}
    precision = len(shared) / len({word for sentence in ours for word in sentence})
    recall = len(shared) / len({word for sentence in theirs for word in sentence})
    return 2 * precision * recall / (precision + recall + 1e-8)


def plain_rouge_l(answer: str, expected: str) -> float:
    """ROUGE-L of the package `rouge-score` without stemming: longest common subsequence of lower-case words, F1."""
    ours, theirs = (re.findall(r"[a-z0-9]+", text.lower()) for text in (answer, expected))
    common = common_length(ours, theirs)
    return 2 * common / (len(ours) + len(theirs)) if common else 0.0


def classification(answer: str, expected: str, classes: Sequence[str]) -> float:
    """1 if the expected class is the only one the answer names, 1/n if it names n classes.

    A named class that is a substring of the expected one is not counted.
    """
    named = [name for name in classes if name in answer]
    # The published scorer removes from the list it iterates over, which skips the entry after a removed one.
    for name in named:
        if name in expected and name != expected:
            named.remove(name)
    return 1.0 / len(named) if expected in named else 0.0


def retrieval(answer: str, expected: str) -> float:
    """The share of the numbers in the answer that equal the number of the expected paragraph, such as "Paragraph 7".

    Raises:
        TreeKVError: the expected answer does not have this form.
    """
    number = re.search(r"Paragraph (\d+)", expected)
    if number is None:
        raise TreeKVError(f"the expected answer must have the form 'Paragraph 7', got {expected!r}")
    return count(answer, number[1])


def count(answer: str, expected: str) -> float:
    """The share of the numbers in the answer that equal the expected one."""
    numbers = re.findall(r"\d+", answer)
    return numbers.count(str(expected)) / len(numbers) if numbers else 0.0


def code_similarity(answer: str, expected: str) -> float:
    """Similarity of the answer's first line of code to the expected one, in whole per cent as in LongBench.

    Lines with a backquote, "#" or "//" are skipped.
    """
    lines = answer.lstrip("\n").split("\n")
    line = next((line for line in lines if not any(mark in line for mark in ("`", "#", "//"))), "")
    return round(100 * similarity(line, expected)) / 100 if line and expected else 0.0


def similarity(one: str, other: str) -> float:
    """Twice the length of the longest common subsequence, divided by both lengths: 1 for equal strings."""
    together = len(one) + len(other)
    return 2 * common_length(one, other) / together if together else 1.0


def common_length(one: Sequence[Hashable], other: Sequence[Hashable]) -> int:
    """Length of the longest common subsequence, bit-parallel (Hyyrö 2004): one long addition per item of `other`."""
    where: dict[Hashable, int] = {}
    for index, item in enumerate(one):
        where[item] = where.get(item, 0) | 1 << index
    everything = (1 << len(one)) - 1
    row = everything  # a zero bit at each index of `one` that extends the subsequence
    for item in other:
        hits = row & where.get(item, 0)
        row = ((row + hits) | (row - hits)) & everything
    return len(one) - row.bit_count()


def _common_subsequence(one: Sequence[str], other: Sequence[str]) -> list[str]:
    """A longest common subsequence; among several the one that `rouge` picks: at a tie the end of `other` is cut."""
    table = [[0] * (len(other) + 1)]
    for word in one:
        above, row = table[-1], [0]
        for index, candidate in enumerate(other):
            row.append(above[index] + 1 if word == candidate else max(above[index + 1], row[index]))
        table.append(row)
    found = []
    i, j = len(one), len(other)
    while i and j:
        if one[i - 1] == other[j - 1]:
            i, j = i - 1, j - 1
            found.append(one[i])
        elif table[i - 1][j] > table[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return found[::-1]


def _sentences(text: str) -> list[list[str]]:
    """The words of each sentence; blanks between two full stops are a sentence of one empty word."""
    if not text.strip(" \n\t."):
        return []
    return [" ".join(sentence.split()).split(" ") for sentence in text.split(".") if sentence]


def _words(text: str) -> list[str]:
    bare = text.lower().translate(str.maketrans("", "", string.punctuation))
    return re.sub(r"\b(a|an|the)\b", " ", bare).split()


def _require_expected(expected: Sequence[str]) -> None:
    if not expected or not all(expected):
        raise TreeKVError("there is no expected answer to compare with")
