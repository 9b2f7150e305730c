"""The steps of figure 3 are those of the rule on lists, of the compiled simulation and of the paper."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import analysis
from analysis.paper import figure3
from analysis.paper.figure_3 import toy_attention
from tests.reference.policies import Entry, TreeRule
from tests.reference.tree import forest
from treekv import TreeKVConfig, TreeKVError

SENTENCE = "Readers recall their last page in full detail but only a few words from chapters long ago"


def listed(words: int, capacity: int, observe) -> list[dict]:
    """What the rule on lists does; `observe(word, held)` gives the weight of each of the held words."""
    rule, entries, steps = TreeRule(capacity, sink=0, recent=0), [], []
    for word in range(words):
        entries.append(Entry(word, total=np.float32(0)))
        for entry, weight in zip(entries, observe(word, [entry.position for entry in entries])):
            entry.total, entry.count = np.float32(entry.total + weight), entry.count + 1
        step = {
            "held": tuple(entry.position for entry in entries),
            "importances": [entry.total / np.float32(entry.count) for entry in entries],
            "cursor": rule.cursor,
            "compared": None,
            "loser": None,
        }
        if len(entries) > capacity:
            step["compared"] = tuple(entry.position for entry in entries[rule.cursor : rule.cursor + 2])
            (gone,) = rule.evict([entries], word)
            step["loser"] = gone.loser
        steps.append(step)
    return steps


def assert_same(steps, expected) -> None:
    assert [(s.held, s.cursor, s.compared, s.loser) for s in steps] == [
        (e["held"], e["cursor"], e["compared"], e["loser"]) for e in expected
    ]
    for step, slow in zip(steps, expected):
        assert step.importances == pytest.approx(slow["importances"], rel=1e-6)


@pytest.mark.parametrize("capacity", range(2, 17))
def test_drawn_importances_evict_what_the_rule_on_lists_evicts(capacity: int) -> None:
    generator = np.random.default_rng(capacity)
    for length in (capacity - 1, capacity, capacity + 1, *generator.integers(1, 80, 3)):
        logits = toy_attention(int(length), seed=int(length))

        def observe(word: int, held: list[int], logits=logits) -> np.ndarray:
            weights = np.exp(logits[word, held] - logits[word, held].max())
            return (weights / weights.sum()).astype(np.float32)

        steps = figure3(["w"] * int(length), capacity, seed=int(length))
        assert_same(steps, listed(int(length), capacity, observe))


@pytest.mark.parametrize("capacity", [2, 3, 5, 16])
def test_scores_of_the_user_evict_what_the_rule_on_lists_evicts(capacity: int) -> None:
    generator = np.random.default_rng(capacity)
    for _ in range(4):
        length = int(generator.integers(2, 60))
        scores = generator.integers(0, 5, length) / 10  # many equal ones
        steps = figure3(["w"] * length, capacity, scores=scores)
        # On lists the average of a constant is that constant, so a count of one will do.
        rule, entries = TreeRule(capacity, sink=0, recent=0), []
        for step in steps:
            entries.append(Entry(step.number - 1, float(scores[step.number - 1]), 1))
            assert step.held == tuple(entry.position for entry in entries)
            assert step.importances == tuple(entry.total for entry in entries)
            gone = rule.evict([entries], step.number - 1)[0] if len(entries) > capacity else None
            assert (step.loser, step.winner) == ((gone.loser, gone.winner) if gone else (None, None))


def test_the_papers_example() -> None:
    """17 tokens, 4 of them kept, nothing protected: idx 1, 2, 3, 4, and 1 again at steps 9, 13 and 17."""
    steps = figure3(SENTENCE)
    assert [step.number for step in steps] == list(range(1, 18))
    assert [step.cursor + 1 for step in steps[4:]] == [1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4, 1]
    assert all(step.compared is None and step.cursor == 0 for step in steps[:4])
    for step in steps[4:]:
        assert step.compared == step.held[step.cursor : step.cursor + 2]
        older, newer = step.compared
        expected = newer if step.importance(older) > step.importance(newer) else older
        assert step.loser == expected and step.winner == sum(step.compared) - expected
        assert step.kept == tuple(position for position in step.held if position != expected)
        assert len(step.kept) == 4
    assert [step.words[-1] for step in steps] == SENTENCE.split()
    # A sweep joins neighbours of one level, so the levels fall from left to right.
    assert [steps[7].level[position] for position in steps[7].kept] == [1, 1, 1, 1]
    assert [steps[11].level[position] for position in steps[11].kept] == [2, 2, 1, 1]
    assert [steps[15].level[position] for position in steps[15].kept] == [3, 2, 1, 1]


@pytest.mark.parametrize("capacity", [2, 4, 7])
def test_the_tree_is_that_of_the_followed_links(capacity: int) -> None:
    steps = figure3(["w"] * 40, capacity, seed=capacity)
    evicted_at, survivor = [-1] * 40, [-1] * 40
    for step in steps:
        if step.loser is not None:
            evicted_at[step.loser], survivor[step.loser] = step.number - 1, step.winner
        assert list(step.parent) == [row["parent"] for row in forest(evicted_at, survivor, step.number - 1)]
        for position, above in enumerate(step.parent):
            assert above == -1 or step.level[above] >= step.level[position] > 0
        assert {position for position, above in enumerate(step.parent) if above == -1} == set(step.kept)


def test_the_compiled_simulation_of_the_same_attention_evicts_the_same() -> None:
    words, capacity = 48, 5
    steps = figure3(["w"] * words, capacity, seed=3)
    logits = np.nan_to_num(toy_attention(words, 3), neginf=0.0)  # later words are masked anyway
    # Keys are the unit vectors, so that a query is a row of logits.
    captured = analysis.Capture(
        q=[torch.tensor(logits, dtype=torch.float32)[None]],
        k=[torch.eye(words)[None]],
        v=[torch.eye(words)[None]],
        scaling=[1.0],
        layers=[0],
        token_ids=torch.arange(words),
        token_text=["w"] * words,
        query_positions=[words - 1],
        model="a toy",
    )
    config = TreeKVConfig(cache_size=capacity, sink_size=0, recent_size=0, prefill="stream", block_size=1)
    found = analysis.simulate(captured, {"tree": config}).isel(policy=0, layer=0, head=0)
    evicted_at, survivor = np.full(words, -1), np.full(words, -1)
    for step in steps[capacity:]:
        evicted_at[step.loser], survivor[step.loser] = step.number - 1, step.winner
    assert found["evicted_at"].values.tolist() == evicted_at.tolist()
    assert found["survivor"].values.tolist() == survivor.tolist()


def test_what_happens_is_said_in_words() -> None:
    words = ["a", "quick", "fox"]
    first, *_, third = figure3(words, 2, scores=[0.12, 0.31, 0.5])
    assert first.in_words() == "Step 1: “a” arrives; there is room for it, so all words stay."
    assert third.in_words() == "Step 3: “fox” arrives; “a” (0.12) and “quick” (0.31) are compared; “a” goes."
    third = figure3(words, 2, scores=[0.12341, 0.12342, 2])[2]
    assert third.numbers() == ("0.12341", "0.12342", "2")
    third = figure3(words, 2, scores=[1, 1, 1])[2]
    assert third.in_words().endswith("“a” (1) and “quick” (1) are compared; “a” goes, the older of equals.")


def test_earlier_steps_do_not_depend_on_later_words() -> None:
    assert figure3(SENTENCE, seed=5)[:9] == figure3(SENTENCE.split()[:9], seed=5)
    assert figure3(SENTENCE, seed=5) != figure3(SENTENCE, seed=6)


@pytest.mark.parametrize("words", ["one", "two words", ["a b", "</b>", "\u202e\0"], "w " * 500])
def test_any_words_are_read(words) -> None:
    steps = figure3(words, 16)
    assert len(steps) == len(words.split() if isinstance(words, str) else words)
    assert all(step.in_words() for step in steps)
    assert len(steps[-1].kept) == min(len(steps), 16)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (dict(words=" \n"), "there are no words to read"),
        (dict(words=[]), "there are no words to read"),
        (dict(words="a b", capacity=1), "capacity must be a whole number of at least 2, got 1"),
        (dict(words="a b", capacity=2.5), r"at least 2, got 2\.5"),
        (dict(words="a b", seed=-1), "seed must be a whole number of at least 0, got -1"),
        (dict(words="a b", scores=[1]), "one number for each of the 2 words, got 1"),
        (dict(words="a b", scores=[1, float("nan")]), "scores must be finite numbers, got nan"),
    ],
)
def test_what_is_wrong_is_said(wrong: dict, said: str) -> None:
    with pytest.raises(TreeKVError, match=said):
        figure3(**wrong)
