"""The docs' tables say what the committed summaries say, and a small set of records gives the table that it must."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from analysis.evaluation.report.aggregate import estimate
from analysis.evaluation.sweep.summary import read_summary, write_summary
from tests.analysis.evaluation.report.examples import record

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TABLES = runpy.run_path(str(BENCHMARKS / "tables.py"))
table, rewritten = TABLES["table"], TABLES["rewritten"]
SCORES = {"full": [3.0, 2.0, 2.5, 3.5], "streaming": [4.0, 3.0, 3.5, 4.5], "tree": [3.5, 2.25, 2.75, 4.25]}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    made = [
        record(name, number, loss + extra, task="ppl", options={"files": [files]}, score_name="loss", budget=budget)
        for files, extra in (("wikitext", 0.0), ("public-novels", 1.0))
        for name, losses in SCORES.items()
        for budget in ([None] if name == "full" else [64, 128])
        for number, loss in enumerate(losses)
    ]
    write_summary(tmp_path / "small.json", made)
    return tmp_path


def test_a_table_of_one_score(small: Path) -> None:
    wanted = {"records": "small", "where": {"files": "WikiText-2", "budget": 64}, "against": "tree", "closes": True}
    apart = estimate(np.subtract(SCORES["full"], SCORES["tree"]).tolist())
    above = estimate(np.subtract(SCORES["streaming"], SCORES["tree"]).tolist())
    assert table(wanted, small).splitlines() == [
        "| settings | nats per token | minus TreeKV | 95 % interval | closes | MB | documents |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        f"| full cache | 2.750 | -0.438 | {apart.low:+.3f} to {apart.high:+.3f} |  | 0.0 | 4 |",
        "| **TreeKV** | 3.188 |  |  | 56 % | 0.0 | 4 |",
        f"| StreamingLLM | 3.750 | +0.562 | {above.low:+.3f} to {above.high:+.3f} |  | 0.0 | 4 |",
    ]


def test_a_table_across_texts_and_budgets(small: Path) -> None:
    wanted = {"records": ["small"], "where": {"budget": 64}, "across": "files", "settings": ["full", "tree"]}
    assert table(wanted, small).splitlines() == [
        "| settings | novels | WikiText-2 |",
        "| --- | ---: | ---: |",
        "| full cache | 3.750 | 2.750 |",
        "| TreeKV | 4.188 | 3.188 |",
    ]
    with pytest.raises(ValueError, match="no record of h2o fits"):
        table(wanted | {"settings": ["tree", "h2o"]}, small)
    shares = {"records": "small", "across": "files", "where": {"budget": 64}, "closes": True, "settings": ["tree"]}
    assert table(shares, small).splitlines()[2:] == ["| TreeKV | 56 % | 56 % |"]  # of distances of what is not shown
    wanted = {"records": "small", "where": {"files": "novels"}, "across": "budget", "against": "streaming"}
    lines = table(wanted, small).splitlines()
    assert lines[0] == "| settings | 64 | 128 |"
    assert lines[2].startswith("| full cache | 3.750; -1.000 (-1.000 to -1.000) | 3.750; -1.000")
    assert lines[4] == "| **StreamingLLM** | 4.750 | 4.750 |"


def test_a_table_with_a_column_for_each_score(small: Path) -> None:
    wanted = {"records": "small", "where": {"files": "novels", "budget": 64}, "score": ["loss", "cache_bytes"]}
    assert table(wanted, small).splitlines()[:3] == [
        "| settings | loss | cache bytes |",
        "| --- | ---: | ---: |",
        "| full cache | 3.750 | 2048.000 |",
    ]


def test_a_page_keeps_all_but_its_tables(small: Path) -> None:
    block = "<!-- results: {records: small, where: {files: novels}, settings: [full]} -->\n"
    page = f"before\n\n{block}old\n<!-- end of results -->\nafter\n"
    made = rewritten(page, small)
    assert made.startswith(f"before\n\n{block}| settings |") and made.endswith("<!-- end of results -->\nafter\n")
    assert "old" not in made and rewritten(made, small) == made


def test_a_table_of_nothing_is_an_error(small: Path) -> None:
    with pytest.raises(ValueError, match="no records fit"):
        table({"records": "small", "where": {"files": "poems"}}, small)
    with pytest.raises(ValueError, match="has no colour; it has records, score"):
        table({"records": "small", "colour": 1}, small)


@pytest.mark.parametrize("page", TABLES["PAGES"], ids=lambda page: page.name)
def test_the_tables_of_the_docs_are_what_was_measured(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.count("<!-- results:") == text.count("<!-- end of results -->") == len(TABLES["BLOCK"].findall(text))
    assert rewritten(text) == text, "python benchmarks/tables.py makes it again"


def test_every_sweep_of_the_study_has_a_grid_and_its_summary_can_be_read() -> None:
    study = runpy.run_path(str(BENCHMARKS / "results.py"))
    for name in study["STUDY"]:
        assert (study["GRIDS"] / f"{name}.yaml").is_file()
    for file in study["SUMMARIES"].glob("*.json"):
        assert file.stem in study["STUDY"] and read_summary(file)


@pytest.mark.slow
def test_a_study_measures_what_its_summary_lacks(tmp_path: Path, monkeypatch) -> None:
    """The script itself, on a few words: the second run finds the first one's summary and measures nothing."""
    study = runpy.run_path(str(BENCHMARKS / "results.py"))
    measure = study["measure"]
    places = measure.__globals__
    places["GRIDS"], places["SUMMARIES"] = tmp_path, tmp_path / "summaries"
    (tmp_path / "text.txt").write_text("one two three four five six seven eight nine ten " * 20)
    (tmp_path / "own.yaml").write_text(
        f"models: [smollm2]\npolicies: [tree, full]\nbudgets: [16]\nbatch: 2\n"
        "settings: {sink_size: 1, recent_size: 4}\n"
        f"tasks:\n  - {{task: ppl, files: [{tmp_path / 'text.txt'}], lengths: [48], count: 2, decode_block: 8}}\n"
    )
    assert measure("own", tmp_path / "first", float("inf"))
    found = read_summary(tmp_path / "summaries" / "own.json")
    assert len(found) == 4
    monkeypatch.setitem(places, "run_sweep", lambda grid, results, **rest: _nothing_is_missing(results, found))
    assert measure("own", tmp_path / "second", float("inf"))


def _nothing_is_missing(results, found):
    from analysis.evaluation.sweep import Outcome

    assert {r.of.key for r in results.read()} == {r.of.key for r in found}
    return Outcome(skipped=len(found))


@pytest.mark.slow
def test_make_says_what_there_is(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "results.py"), "--list"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=BENCHMARKS.parent)
    assert done.returncode == 0 and "paper-table-1" in done.stdout, done.stderr


def test_the_picture_shows_every_setting_on_every_kind_of_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    drawn = runpy.run_path(str(BENCHMARKS / "results_picture.py"))
    figure = drawn["picture"]()
    assert len(figure.data) == len(drawn["SETTINGS"]) * len({*TABLES["TEXTS"].values()})
