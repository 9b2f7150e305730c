"""Figures of an evaluation draw the numbers of its tables."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from analysis.evaluation.report import aggregate, figures
from analysis.evaluation.sweep.records import Record
from tests.analysis.evaluation.report.examples import EVIL, record
from treekv import TreeKVError


def test_quality_is_drawn_with_its_intervals(records: list[Record]) -> None:
    rows = aggregate.summarize(records)
    figure = figures.quality(rows)
    traces = {trace.name: trace for trace in figure.data}
    assert set(traces) == {"StreamingLLM", "TreeKV", "full cache (all tokens)"}
    for name in ("StreamingLLM", "TreeKV"):
        own = [row.estimate for row in rows if row.title == name]
        assert list(traces[name].x) == ["64", "128"]
        assert list(traces[name].y) == [e.mean for e in own]
        assert list(traces[name].error_y.array) == pytest.approx([e.high - e.mean for e in own])
        assert list(traces[name].error_y.arrayminus) == pytest.approx([e.mean - e.low for e in own])
    assert list(traces["full cache (all tokens)"].y) == [rows[0].estimate.mean] * 2
    assert f"TreeKV at 128 {rows[3].estimate.mean:.4g} (" in figure.layout.meta["alt"]
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
    assert list(dots.y) == ["StreamingLLM", "TreeKV", "full cache (all tokens)"]  # the best on top
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
    assert lines_of(figure) == {"TreeKV at 64": ([1, 5, 9], [0.0, 0.25, 0.75])}
    assert "full cache 4.000, 3.000, 2.000" in figure.layout.meta["alt"]
    assert "mean of 2 documents" in figure.layout.title.subtitle.text


def test_loss_by_position_without_a_full_cache_is_drawn_above_the_mean() -> None:
    made = [streamed("tree", 0, [3.0, 2.0, 1.0]), streamed("streaming", 0, [3.0, 4.0, 2.0])]
    found = lines_of(figures.loss_by_position(aggregate.group_cells(made)))
    assert found == {"TreeKV at 64": ([1, 5, 9], [0, -1, -0.5]), "StreamingLLM at 64": ([1, 5, 9], [0, 1, 0.5])}


def test_one_line_of_losses_is_drawn_as_it_is() -> None:
    figure = figures.loss_by_position(aggregate.group_cells([streamed("tree", 0, [3.0, 2.0, 1.0])]))
    assert lines_of(figure) == {"TreeKV at 64": ([1, 5, 9], [3, 2, 1])}
    with pytest.raises(TreeKVError, match="no record has losses by position"):
        figures.loss_by_position(aggregate.group_cells([record()]))


def test_losses_are_pooled_by_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "_POINTS", 1)
    figure = figures.loss_by_position(aggregate.group_cells([streamed("tree", 0, [3.0, 2.0, 1.0])]))
    assert lines_of(figure) == {"TreeKV at 64": ([1], [(3 * 4 + 2 * 4 + 1 * 2) / 10])}


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
    assert figure.layout.meta["alt"].endswith("TreeKV at 64 62 %.")
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
