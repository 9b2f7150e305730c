"""Rows are what the records say: means, intervals and paired differences against slow transcriptions."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from analysis.evaluation.report import aggregate, formats
from analysis.evaluation.sweep.records import Record
from tests.analysis.evaluation.report.examples import record, scores
from treekv import TreeKVConfig, TreeKVError


def test_rows_are_means_over_documents_and_paired_differences(records: list[Record]) -> None:
    rows = aggregate.summarize(records)
    assert [(row.name, row.budget) for row in rows] == [
        ("full", None), ("tree", 64), ("streaming", 64), ("tree", 128), ("streaming", 128),
    ]  # fmt: skip
    full = scores(records, "full", None)
    for row in rows:
        own = scores(records, row.name, row.budget)
        assert row.estimate.documents == len(own) == (7 if (row.name, row.budget) == ("tree", 64) else 8)
        assert row.failed == 8 - len(own)
        assert row.estimate.mean == pytest.approx(sum(own.values()) / len(own))
        assert row.estimate.low < row.estimate.mean < row.estimate.high
        assert row.others == {"cache_bytes": 2048.0}
        assert row.answers
        if row.name == "full":
            assert row.difference is None
            continue
        apart = [own[document] - full[document] for document in own]
        assert row.difference.documents == len(apart)
        assert row.difference.mean == pytest.approx(sum(apart) / len(apart))
        assert row.difference.high < 0  # every document lost
        # Pairs say more than two intervals do.
        assert row.difference.high - row.difference.low < row.estimate.high - row.estimate.low
    assert aggregate.summarize(list(reversed(records))) == rows


def test_the_interval_is_the_bootstrap_of_the_mean() -> None:
    values = np.random.default_rng(0).gamma(2.0, 3.0, 40)
    found = aggregate.estimate(values.tolist())
    draws = np.random.default_rng(1)
    means = np.array([draws.choice(values, len(values)).mean() for _ in range(20_000)])
    # BCa by hand (Efron 1987): bias from the draws, acceleration from leaving one out.
    bias = stats.norm.ppf((means < values.mean()).mean())
    left_out = np.array([np.delete(values, i).mean() for i in range(len(values))])
    away = left_out.mean() - left_out
    acceleration = (away**3).sum() / (6 * (away**2).sum() ** 1.5)
    bounds = []
    for level in (0.025, 0.975):
        shifted = bias + stats.norm.ppf(level)
        bounds.append(np.quantile(means, stats.norm.cdf(bias + shifted / (1 - acceleration * shifted))))
    assert (found.low, found.high) == pytest.approx(bounds, rel=0.02)
    assert aggregate.estimate(values.tolist()) == found


def test_small_and_constant_samples_have_the_interval_they_can_have() -> None:
    assert aggregate.estimate([3.0]) == aggregate.Estimate(3.0, None, None, 1)
    assert aggregate.estimate([2.0, 2.0, 2.0]) == aggregate.Estimate(2.0, 2.0, 2.0, 3)
    two = aggregate.estimate([0.0, 100.0])
    assert (two.low, two.high) == (0.0, 100.0)
    assert all(math.isfinite(bound) for bound in (aggregate.estimate([0.0] * 9 + [100.0]).low, two.low))


def test_seeds_do_not_count_a_document_twice() -> None:
    many = [record(document=d, score=10.0 * d + s, seed=s) for d in range(4) for s in range(3)]
    [row] = aggregate.summarize(many, baseline=None)
    assert row.estimate == aggregate.estimate([1.0, 11.0, 21.0, 31.0])


def test_a_baseline_is_met_at_the_same_budget(records: list[Record]) -> None:
    rows = {(row.name, row.budget): row for row in aggregate.summarize(records, baseline="streaming")}
    for budget in (64, 128):
        own, other = scores(records, "tree", budget), scores(records, "streaming", budget)
        mean = np.mean([own[document] - other[document] for document in own])
        assert rows["tree", budget].difference.mean == pytest.approx(mean)
        assert rows["streaming", budget].difference is None
    assert rows["full", None].difference is None  # at which budget should it be?
    with pytest.raises(TreeKVError, match="there are no settings 'tre' to compare with; there are full, streaming, t"):
        aggregate.summarize(records, baseline="tre")
    assert aggregate.summarize([], baseline="tre") == []


def test_a_chosen_score_leaves_out_tasks_that_lack_it(records: list[Record]) -> None:
    other = record("full", score=2.0, task="ppl", score_name="loss")
    assert {row.task for row in aggregate.summarize([*records, other])} == {"needle", "ppl"}
    [row] = aggregate.summarize([*records, other], score="loss")
    assert (row.task, row.estimate.mean) == ("ppl", 2.0)
    assert {row.score for row in aggregate.summarize(records, score="cache_bytes")} == {"cache_bytes"}
    with pytest.raises(TreeKVError, match="no record has the score 'acc'; there are cache_bytes, score"):
        aggregate.summarize(records, score="acc")


def test_what_differs_is_never_averaged_under_one_name() -> None:
    made = [
        record(score=1.0),
        record(score=2.0, config={"stride": 2}),
        record(document=1, score=3.0, facts={"length": 1024}),
        record(score=4.0, model="n"),
        record(score=5.0, model="n", dtype="bfloat16"),
        record(score=6.0, options={"keys": 8, "seed": 1}),
        record(score=7.0, options={"keys": 4, "seed": 2}),
        record(score=8.0, budget="5%", config={"cache_size": 32, "recent_size": 12}),
    ]
    found = {
        (row.model, row.task, row.name, row.group["length"], row.budget): row for row in aggregate.summarize(made, None)
    }
    assert [row.estimate.documents for row in found.values()] == [1] * 8
    assert ("n (dtype bfloat16)", "needle", "tree (stride 1)", 512, 64) in found
    assert ("m", "needle (keys 8)", "tree (stride 1)", 512, 64) in found
    assert ("m", "needle", "tree (stride 2)", 512, 64) in found


def test_a_table_of_sizes_belongs_to_its_budget() -> None:
    made = [
        record("own", 0, 1.0, budget=64, config={"cache_size": 64, "budgets": [[64]]}),
        record("own", 0, 2.0, budget=32, config={"cache_size": 32, "budgets": [[32]]}),
    ]
    assert [(row.name, row.budget) for row in aggregate.summarize(made, None)] == [("own", 32), ("own", 64)]
    made.append(record("own", 1, 3.0, budget=32, config={"cache_size": 32, "budgets": [[16]]}))
    assert [row.name for row in aggregate.summarize(made, None)] == [
        "own (budgets of 32 [[16]])",
        "own (budgets of 32 [[32]])",
        "own",
    ]


def test_kinds_of_questions_have_rows_of_their_own() -> None:
    made = [
        record(document=i, score=float(i), facts={fact: value, "length": 512})
        for i, (fact, value) in enumerate(
            (f, v) for f in ("subtask", "dataset", "haystack") for v in ("a", "b")
        )
    ]  # fmt: skip
    rows = aggregate.summarize(made, None)
    assert sorted(row.estimate.mean for row in rows) == [0, 1, 2, 3, 4, 5]
    assert {"subtask": "b", "length": 512} in [row.group for row in rows]


def test_of_a_document_that_changed_the_last_measurement_counts() -> None:
    def measured(score: float | None, content: str, day: int) -> Record:
        made = record(document=0, score=score, about={"date": f"2026-01-0{day}"})
        return dataclasses.replace(made, of=dataclasses.replace(made.of, content=content))

    made = [measured(3.0, "new", 3), measured(1.0, "old", 1), measured(None, "older", 2), record(document=1, score=5.0)]
    [row] = aggregate.summarize(made, None)
    assert (row.estimate.mean, row.estimate.documents, row.failed) == (4.0, 2, 0)
    assert aggregate.failures(made) == []
    assert aggregate.notes([row], made) == [
        "2 records of documents that have changed since are left out; the newer ones count."
    ]


def test_notes_say_what_a_reader_must_know(records: list[Record]) -> None:
    rows = aggregate.summarize(records)
    assert aggregate.notes(rows, records) == [
        "Measurements that failed and are left out of all means: 1; treekv eval retries them."
    ]
    for score, place in ((0.0, "at the floor; no evidence"), (100.0, "at the ceiling; little evidence")):
        flat = [record("full", document, score) for document in range(3)]
        [said] = aggregate.notes(aggregate.summarize(flat), flat)
        assert said.startswith(f"m, needle, length 512: the full cache scores {score:.1f} %, {place}")
    plain = [record("full", score=1.5, detail={})]  # a perplexity of 1.5 is no floor
    assert aggregate.notes(aggregate.summarize(plain), plain) == []
    mixed = [record("full", 0, 50.0), record("full", 1, 60.0, about={"versions": {"treekv": "2"}})]
    [said] = aggregate.notes(aggregate.summarize(mixed), mixed)
    assert "2 different software versions" in said
    variants = [record("h2o", 0, 1.0, config={"policy": "h2o"})]
    variants += [record("mine", 0, 1.0, config={"policy": "h2o", "variant": "paper"}), record("tree", 0, 1.0)]
    said = aggregate.notes(aggregate.summarize(variants, None), variants)
    assert said == ["Default sizes: mine: paper's allocation."]


def test_failures_are_told_once_for_each_reason() -> None:
    made = [record(document=i, score=None) for i in range(3)] + [record(document=5, score=None, error="OSError: x")]
    outline = dataclasses.replace(made[0].of, document=None, task="ppl")
    made.append(Record(of=outline, error="no files"))
    assert aggregate.failures(made) == [
        "m, needle: OSError: x", "m, needle: RuntimeError: no (3 times)", "m, ppl: no files",
    ]  # fmt: skip
    rows = aggregate.summarize(made, baseline=None)
    assert [(row.estimate, row.failed) for row in rows] == [(None, 4)]
    [shown] = formats.make_tables(rows, None)
    assert "-" in shown.rows[0]


def test_an_interval_that_follows_from_the_budget_makes_no_other_settings() -> None:
    def of(number: int, size: int, interval: int) -> Record:
        return record(
            "lagkv",
            number,
            1.0,
            budget=size,
            config=TreeKVConfig(policy="lagkv", cache_size=size, interval=interval).to_dict(),
        )

    made = [of(0, 128, 16), of(0, 256, 32)]  # both the default
    assert [(row.name, row.budget) for row in aggregate.summarize(made, None)] == [("lagkv", 128), ("lagkv", 256)]
    made.append(of(1, 256, 8))
    assert {row.name for row in aggregate.summarize(made, None)} == {"lagkv", "lagkv (interval 8)"}


def test_an_option_that_a_policy_ignores_makes_no_other_settings() -> None:
    """Earlier versions recorded such options; a sweep that goes on records their defaults."""
    made = [
        record("h2o", 0, 1.0, config={"policy": "h2o", "stride": 2}),
        record("h2o", 1, 3.0, config={"policy": "h2o"}),
    ]
    [row] = aggregate.summarize(made, None)
    assert (row.name, row.estimate.mean) == ("h2o", 2.0)
    made = [
        record("mine", 0, 1.0, config={"policy": "mine", "stride": 2}),
        record("mine", 1, 3.0, config={"policy": "mine"}),
    ]
    assert {row.name for row in aggregate.summarize(made, None)} == {"mine (stride 1)", "mine (stride 2)"}
