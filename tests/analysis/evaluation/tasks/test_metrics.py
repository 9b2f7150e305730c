"""Every metric on cases worked out by hand, and against the libraries that others use."""

from __future__ import annotations

import pytest
import rapidfuzz
from hypothesis import given
from hypothesis import strategies as st
from rouge_score import rouge_scorer

from analysis.evaluation.tasks import metrics
from treekv import TreeKVError

WORDS = st.lists(st.sampled_from(["the", "cat", "sat", "on", "a", "mat", "7", "Dog", "dog"]), max_size=14).map(" ".join)


@pytest.mark.parametrize(
    ("answer", "expected", "score"),
    [
        ("It is 4821 and 77.", ["4821", "77"], 1.0),
        ("It is 4821.", ["4821", "77"], 0.5),
        ("PARIS", ["Paris"], 1.0),
        ("", ["4821"], 0.0),
        ("4 821", ["4821"], 0.0),
    ],
)
def test_match_all(answer, expected, score):
    assert metrics.match_all(answer, expected) == score


def test_match_part_needs_only_one():
    assert metrics.match_part("in paris, france", ["Paris", "Lyon"]) == 1
    assert metrics.match_part("in Nice", ["Paris", "Lyon"]) == 0
    assert metrics.match_part("", ["Paris"]) == 0


@pytest.mark.parametrize("metric", [metrics.match_all, metrics.match_part])
@pytest.mark.parametrize("expected", [[], [""]])
def test_nothing_expected_is_an_error_and_not_a_score(metric, expected):
    with pytest.raises(TreeKVError, match="no expected answer"):
        metric("anything", expected)


@pytest.mark.parametrize(
    ("answer", "expected", "score"),
    [
        ("The cat sat.", "a cat sat down", 2 * 2 / (2 + 3)),
        ("Answer: 7", "7", 2 / 3),
        ("cat cat", "cat", 2 / 3),
        ("don't", "dont", 1.0),
        ("dog", "cat", 0.0),
        ("", "cat", 0.0),
        ("the", "the", 0.0),  # nothing but an article on both sides
    ],
)
def test_qa_f1(answer, expected, score):
    assert metrics.qa_f1(answer, expected) == pytest.approx(score)


@pytest.mark.parametrize(
    ("answer", "expected", "shared", "ours", "theirs"),
    [
        ("a b c", "a c d", 2, 3, 3),
        ("a a a", "a", 1, 1, 1),  # distinct words
        ("c b a", "a b c", 1, 3, 3),  # order counts
        ("x b. a y", "a. b", 2, 4, 2),  # sentence by sentence, whatever their order
        ("Cat", "cat", 0, 1, 1),  # case counts
        ("cat, dog", "cat dog", 1, 2, 2),  # punctuation counts
        ("a b.", "a b", 2, 2, 2),
        ("", "a", 0, 1, 1),
        (" . .", "a", 0, 1, 1),
        ("a", "", 0, 1, 1),
    ],
)
def test_rouge_l_of_summaries(answer, expected, shared, ours, theirs):
    precision, recall = shared / ours, shared / theirs
    f1 = 2 * precision * recall / (precision + recall) if shared else 0
    assert metrics.rouge_l(answer, expected) == pytest.approx(f1, abs=1e-7)


@given(
    st.permutations(["one", "two", "three", "four", "five", "six"]),
    st.permutations(["one", "two", "three", "four", "x", "y"]),
)
@pytest.mark.slow
def test_rouge_l_of_one_sentence_of_distinct_words_is_that_of_rouge_score(one, other):
    scorer = rouge_scorer.RougeScorer(["rougeL"])
    one, other = " ".join(one), " ".join(other)
    assert metrics.rouge_l(one, other) == pytest.approx(scorer.score(other, one)["rougeL"].fmeasure, abs=1e-7)


@given(WORDS, WORDS)
def test_plain_rouge_l_is_that_of_rouge_score(one, other):
    scorer = rouge_scorer.RougeScorer(["rougeL"])
    assert metrics.plain_rouge_l(one, other) == pytest.approx(scorer.score(other, one)["rougeL"].fmeasure)


@given(st.text("abc", max_size=30), st.text("abc", max_size=30))
def test_common_length_is_that_of_the_table(one, other):
    table = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
    for i, x in enumerate(one):
        for j, y in enumerate(other):
            table[i + 1][j + 1] = table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
    assert metrics.common_length(one, other) == table[-1][-1]
    assert len(metrics._common_subsequence(one, other)) == table[-1][-1]


CLASSES = ["Date", "Other number", "number", "Food", "Other", "Other food"]


@pytest.mark.parametrize(
    ("answer", "expected", "score"),
    [
        ("Date", "Date", 1.0),
        ("It is Date or Food", "Date", 0.5),
        ("Food", "Date", 0.0),
        ("", "Date", 0.0),
        ("date", "Date", 0.0),
        ("Other number", "Other number", 0.5),  # "Other number", "number", "Other"; of the parts one is passed over
        ("Other", "Other number", 0.0),
    ],
)
def test_classification(answer, expected, score):
    assert metrics.classification(answer, expected, CLASSES) == score


def test_the_part_of_a_class_that_the_published_scorer_passes_over():
    """With the list in the order (whole, part, part) its loop removes the first part only."""
    assert metrics.classification("a b c", "a b c", ["a b c", "a b", "c"]) == 0.5
    assert metrics.classification("a b c", "a b c", ["a b", "a b c", "c"]) == 1.0


@pytest.mark.parametrize(
    ("answer", "score"), [("Paragraph 7", 1.0), ("7", 1.0), ("7 or 17", 0.5), ("17", 0.0), ("seven", 0.0), ("", 0.0)]
)
def test_retrieval_and_count(answer, score):
    assert metrics.retrieval(answer, "Paragraph 7") == score
    assert metrics.count(answer, "7") == score


def test_retrieval_needs_a_paragraph():
    with pytest.raises(TreeKVError, match="must have the form 'Paragraph 7', got 'seven'"):
        metrics.retrieval("7", "seven")


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("return x", 1.0),
        ("\n\nreturn x\nmore", 1.0),
        ("# a comment\n```\nreturn x", 1.0),
        ("return", 0.86),  # 2 x 6 of 6 + 8
        ("", 0.0),
        ("# only a comment", 0.0),
    ],
)
def test_code_similarity(answer, score):
    assert metrics.code_similarity(answer, "return x") == score


@given(st.text("abc =(\t", min_size=1, max_size=40), st.text("abc =(\t", min_size=1, max_size=40))
def test_code_similarity_is_that_of_rapidfuzz(one, other):
    assert metrics.similarity(one, other) == pytest.approx(rapidfuzz.fuzz.ratio(one, other) / 100)
    assert metrics.code_similarity(one, other) == pytest.approx(rapidfuzz.fuzz.ratio(one, other) / 100, abs=0.0051)
