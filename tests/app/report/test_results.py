"""Results read once and summarized for any baseline."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.evaluation.sweep.records import Definition, Record, Results
from app.report.results import as_latex, as_markdown, read, summarize
from app.report.results_page import results_page
from app.text import captions
from treekv import TreeKVError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    results = Results(tmp_path / "results")
    results.create()
    for name, scores in (("full", (3.0, 4.0)), ("tree", (3.5, 4.25))):
        for document, score in zip("ab", scores):
            of = Definition("m", None, None, "ppl", {}, name, None, None, 0, document, "c")
            results.write(Record(of, {"perplexity": score}))
    return results.path


def test_one_reading_serves_every_baseline(folder: Path) -> None:
    measured = read(folder)
    assert (measured.names, measured.default_baseline, measured.damaged) == (["full", "tree"], "full", [])
    usual, other = summarize(measured), summarize(measured, "tree")
    assert (usual.baseline, other.baseline) == ("full", "tree")
    assert {row.name: row.estimate.mean for row in usual.rows} == {"full": 3.5, "tree": 3.875}
    differences = {row.name: row.difference and row.difference.mean for row in usual.rows}
    assert differences == {"full": None, "tree": 0.375}
    assert {row.name: row.difference and row.difference.mean for row in other.rows} == {"full": -0.375, "tree": None}
    with pytest.raises(TreeKVError, match="no settings 'none'"):
        summarize(measured, "none")


def test_the_report_in_every_format_has_the_numbers(folder: Path) -> None:
    report = summarize(read(folder))
    for text in (as_markdown(report), as_latex(report), results_page(report, "A title")):
        assert "3.88" in text or "3.875" in text


def test_perplexities_are_drawn_as_differences_on_the_same_documents(folder: Path) -> None:
    draw, caption = summarize(read(folder)).sections[0].pictures[0]
    figure = draw()
    assert list(figure.data[0].x) == [0.375] and "minus that of full" in figure.layout.title.text
    assert caption == captions.PAIRED


def test_damaged_files_are_noted(folder: Path) -> None:
    next((folder / "records").glob("*.json")).write_text("{")
    measured = read(folder)
    assert len(measured.damaged) == 1 and len(measured.records) == 3
    assert any("1 damaged file is left out" in note for note in summarize(measured).notes)


def test_a_folder_without_records_is_refused(tmp_path: Path) -> None:
    Results(tmp_path / "empty").create()
    with pytest.raises(TreeKVError, match="has no records yet"):
        read(tmp_path / "empty")
