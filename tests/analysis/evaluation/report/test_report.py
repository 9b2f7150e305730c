"""Tables and figures say what the records say: means, intervals and pairs against slow transcriptions."""

from __future__ import annotations

import dataclasses
import html.parser
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from analysis.evaluation.report import aggregate, figures, formats
from analysis.evaluation.sweep.records import Definition, Record, Results
from treekv import TreeKVConfig, TreeKVError

EVIL = "<b>|_&$\\"


def record(name: str = "tree", document: int = 0, score: float | None = 1.0, **changes) -> Record:
    """One record of documents d0, d1, ... with their own facts."""
    budget = changes.pop("budget", None if name == "full" else 64)
    config = None if name == "full" else dict(vars(TreeKVConfig(cache_size=64)), **changes.pop("config", {}))
    of = {"model": "m", "dtype": None, "device": None, "task": "needle", "options": {}, "seed": 0}
    of |= {key: changes.pop(key) for key in list(changes) if key in of}
    key = changes.pop("document_key", f"d{document}")
    facts = changes.pop("facts", {"length": 512, "depth": 25.0 * (document % 3)})
    detail = changes.pop("detail", {"answer": "x"})
    scores = {} if score is None else {changes.pop("score_name", "score"): score, "cache_bytes": 2048.0}
    error = None if score is not None else changes.pop("error", "RuntimeError: no")
    about = changes.pop("about", {"versions": {"treekv": "1"}, "machine": {"cores": 2}})
    assert not changes
    definition = Definition(**of, name=name, config=config, budget=budget, document=key, content="c")
    return Record(of=definition, scores=scores, detail=detail, facts=facts, error=error, about=about)


@pytest.fixture
def records() -> list[Record]:
    """Full and two settings at two budgets on 8 documents; one measurement failed."""
    draw = np.random.default_rng(3)
    made = []
    for document in range(8):
        base = float(draw.uniform(40, 90))
        made.append(record("full", document, base))
        for name in ("tree", "streaming"):
            for budget in (64, 128):
                failed = (name, budget, document) == ("tree", 64, 5)
                score = None if failed else base - float(draw.uniform(0, 30))
                made.append(record(name, document, score, budget=budget))
    return [made[i] for i in draw.permutation(len(made))]


def scores(records: list[Record], name: str, budget: int | None) -> dict[str, float]:
    return {
        str(r.of.document): r.scores["score"]
        for r in records
        if (r.of.name, r.of.budget) == (name, budget) and r.error is None
    }


def test_rows_are_means_over_documents_and_paired_differences(records: list[Record]) -> None:
    rows = aggregate.summarize(records)
    assert [(row.name, row.budget) for row in rows] == [
        ("full", None), ("streaming", 64), ("tree", 64), ("streaming", 128), ("tree", 128),
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
    assert (
        aggregate.notes([row], made)
        == [
            "2 records of documents that have changed since are left out; the newer ones count.",
            "The records were made with 2 different software versions; each record says which.",
        ][: len(aggregate.notes([row], made))]
    )


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


# ---------------------------------------------------------------------- text


def parsed(markup: str) -> list[list[str]]:
    """The rows of an HTML table as a browser would read them."""

    class Reader(html.parser.HTMLParser):
        rows: list[list[str]]

        def handle_starttag(self, tag: str, attrs: object) -> None:
            assert tag in ("table", "caption", "thead", "tbody", "tr", "th", "td")
            if tag == "tr":
                self.rows.append([])
            elif tag in ("th", "td"):
                self.rows[-1].append("")

        def handle_data(self, data: str) -> None:
            if self.rows and self.rows[-1] and data.strip():
                self.rows[-1][-1] += data

    reader = Reader()
    reader.rows = []
    reader.feed(markup)
    return reader.rows


def test_the_three_forms_hold_the_same_cells(records: list[Record]) -> None:
    named = [dataclasses.replace(r, of=dataclasses.replace(r.of, model=EVIL)) for r in records]
    rows = aggregate.summarize(named)
    [made] = formats.make_tables(rows)
    assert made.head[:5] == ["length", "settings", "budget", "documents", "failed"]
    assert made.head[5:10] == ["score", "95 % interval", "minus full", "95 % interval of it", "in common"]
    assert made.rows[0][:6] == ["512", "full", "all", "8", "0", formats.format_number(rows[0].estimate.mean)]
    assert made.rows[2][:5] == ["512", "tree", "64", "7", "1"]
    assert made.title == f"needle, {EVIL}: score, higher is better"

    assert parsed(formats.to_html(made)) == [made.head, *made.rows]
    assert "<b>" not in formats.to_html(made)

    lines = formats.to_markdown(made).splitlines()
    assert lines[0] == r"**needle, \<b\>\|\_&$\\: score, higher is better**"
    assert [[cell.replace("\\", "") for cell in line[2:-2].split(" | ")] for line in (lines[2], *lines[4:])] == [
        made.head, *made.rows,
    ]  # fmt: skip
    assert lines[3] == "| --- | --- |" + " ---: |" * (len(made.head) - 2)

    written = formats.to_latex(made)
    assert r"\caption{needle, <b>|\_\&\$\textbackslash{}: score, higher is better}" in written
    body = written[written.index(r"\toprule") : written.index(r"\end{tabular}")].splitlines()
    cells = [line.removesuffix(r" \\").split(" & ") for line in body if line.endswith(r"\\")]
    assert [[cell.replace("\\", "") for cell in line] for line in cells] == [made.head, *made.rows]


@pytest.mark.parametrize(
    ("value", "text"),
    [(12.3456, "12.35"), (0.0, "0"), (123456.0, "123,456"), (0.00001, "0.000010"), (-0.5, "-0.5"), (None, "-")],
)
def test_numbers_are_plain(value: float | None, text: str) -> None:
    assert formats.format_number(value) == text


# ---------------------------------------------------------------------- figures


def test_quality_is_drawn_with_its_intervals(records: list[Record]) -> None:
    rows = aggregate.summarize(records)
    figure = figures.quality(rows)
    traces = {trace.name: trace for trace in figure.data}
    assert set(traces) == {"streaming", "tree", "full (all tokens)"}
    for name in ("streaming", "tree"):
        own = [row.estimate for row in rows if row.name == name]
        assert list(traces[name].x) == ["64", "128"]
        assert list(traces[name].y) == [e.mean for e in own]
        assert list(traces[name].error_y.array) == pytest.approx([e.high - e.mean for e in own])
        assert list(traces[name].error_y.arrayminus) == pytest.approx([e.mean - e.low for e in own])
    assert list(traces["full (all tokens)"].y) == [rows[0].estimate.mean] * 2
    assert f"tree at 128 {rows[4].estimate.mean:.4g} (" in figure.layout.meta["alt"]
    other = dataclasses.replace(rows[0], group={"length": 3})
    with pytest.raises(TreeKVError, match="cannot be one figure"):
        figures.quality([*rows, other])
    with pytest.raises(TreeKVError, match="no score to draw"):
        figures.quality([])


def test_a_single_budget_is_drawn_as_a_ranking() -> None:
    made = [record(name, d, score, budget=None if name == "full" else 64)
            for name, scores in (("full", (9.0, 7.0)), ("tree", (6.0, 6.0)), ("streaming", (1.0, 4.0)))
            for d, score in enumerate(scores)]  # fmt: skip
    rows = aggregate.summarize(made)
    figure = figures.quality(rows)
    [dots] = figure.data
    assert list(dots.y) == ["streaming", "tree", "full (all tokens)"]  # the best on top
    assert list(dots.x) == [2.5, 6.0, 8.0]
    of = {row.name: row.estimate for row in rows}
    assert list(dots.error_x.array) == pytest.approx([of[n].high - of[n].mean for n in ("streaming", "tree", "full")])
    assert figure.layout.shapes[0].x0 == 8.0
    assert "with 64 kept" in figure.layout.title.text


def streamed(name: str, document: int, losses: list[float], budget: int | None = 64) -> Record:
    cells = {"position": [1, 5, 9][: len(losses)], "loss": losses, "tokens": [4, 4, 2][: len(losses)]}
    return record(name, document, 1.0, budget=budget, detail={"by_position": cells})


def lines_of(figure: Any) -> dict[str, tuple[list[int], list[float]]]:
    return {trace.name: (list(trace.x), pytest.approx(list(trace.y))) for trace in figure.data}


def test_loss_by_position_is_drawn_above_that_of_the_full_cache() -> None:
    made = [
        streamed("full", 0, [3.0, 2.0, 1.0], None),
        streamed("full", 1, [5.0, 4.0, 3.0], None),
        streamed("full", 2, [9.0, 9.0, 9.0], None),  # the tree has not read this one
        streamed("tree", 0, [3.0, 2.5, 2.0]),
        streamed("tree", 1, [5.0, 4.0, 3.5]),
    ]
    figure = figures.loss_by_position(aggregate.group_cells(made))
    assert lines_of(figure) == {"tree at 64": ([1, 5, 9], [0.0, 0.25, 0.75])}
    assert "full 4.000, 3.000, 2.000" in figure.layout.meta["alt"]
    assert "mean of 2 documents" in figure.layout.title.subtitle.text


def test_loss_by_position_without_a_full_cache_is_drawn_above_the_mean() -> None:
    made = [streamed("tree", 0, [3.0, 2.0, 1.0]), streamed("streaming", 0, [3.0, 4.0, 2.0])]
    found = lines_of(figures.loss_by_position(aggregate.group_cells(made)))
    assert found == {"tree at 64": ([1, 5, 9], [0, -1, -0.5]), "streaming at 64": ([1, 5, 9], [0, 1, 0.5])}


def test_one_line_of_losses_is_drawn_as_it_is() -> None:
    figure = figures.loss_by_position(aggregate.group_cells([streamed("tree", 0, [3.0, 2.0, 1.0])]))
    assert lines_of(figure) == {"tree at 64": ([1, 5, 9], [3, 2, 1])}
    with pytest.raises(TreeKVError, match="no record has losses by position"):
        figures.loss_by_position(aggregate.group_cells([record()]))


def test_losses_are_pooled_by_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "_POINTS", 1)
    figure = figures.loss_by_position(aggregate.group_cells([streamed("tree", 0, [3.0, 2.0, 1.0])]))
    assert lines_of(figure) == {"tree at 64": ([1], [(3 * 4 + 2 * 4 + 1 * 2) / 10])}


def test_the_needle_grid_is_the_mean_of_each_cell() -> None:
    made = [
        record("tree", 2 * i + j, 100.0 * (j or i == 2), facts={"depth": 50 * (i // 2), "length": 512 * (1 + i % 2)})
        for i in range(4)
        for j in range(2)
    ]
    figure = figures.needle_grid(aggregate.group_cells(made))
    [grid] = figure.data
    assert (list(grid.x), list(grid.y)) == (["512", "1,024"], ["0", "50"])
    assert [list(line) for line in grid.z] == [[50, 50], [100, 50]]
    assert figure.layout.meta["alt"].endswith("tree at 64 62 %.")
    partly = figures.needle_grid(
        aggregate.group_cells([*made, record("full", 9, 10.0, facts={"depth": 0, "length": 512})])
    )
    assert [list(line) for line in partly.data[0].z] == [[10, None], [None, None]]
    with pytest.raises(TreeKVError, match="no document has a depth and a length"):
        figures.needle_grid(aggregate.group_cells([record(facts={})]))


def test_names_cannot_put_markup_into_figures(records: list[Record]) -> None:
    named = [dataclasses.replace(r, of=dataclasses.replace(r.of, model=EVIL, name=f"<i>{r.of.name}")) for r in records]
    for figure in (
        figures.quality(aggregate.summarize(named, None)),
        figures.needle_grid(aggregate.group_cells(named)),
    ):
        shown = figure.to_plotly_json()
        assert "<i>" not in str(shown["data"])
        assert "<b>" not in str(shown["layout"]["title"])
        assert "<i>" not in str(shown["layout"].get("annotations"))


@pytest.fixture
def folder(records: list[Record], tmp_path: Path) -> Path:
    results = Results(tmp_path / "results")
    results.create()
    for made in records:
        results.write(made)
    return results.path
