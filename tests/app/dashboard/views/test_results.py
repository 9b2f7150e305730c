"""The page Results keeps to what lies below the folder of runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from analysis.evaluation.sweep.records import Definition, Record, Results
from app.report import results
from tests.app.pages import opened

RESULTS = "views/results.py"


def measured(path: Path, name: str) -> Results:
    made = Results(path)
    made.create()
    for document in ("a", "b"):
        of = Definition("m", None, None, "ppl", {}, name, None, None, 0, document, "c")
        made.write(Record(of, {"perplexity": 3.0}))
    return made


def shown(test: AppTest) -> str:
    assert not test.exception
    return " ".join(element.proto.body for element in test.get("html"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    measured(tmp_path / "outside", "secret")
    folder = tmp_path / "root"
    measured(folder / "inside", "own")
    return folder


def test_linked_results_outside_the_root_are_neither_listed_nor_drawn(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "linked").symlink_to(root.parent / "outside")
    test = opened(None, monkeypatch, RESULTS, root=root, results="linked")
    assert test.selectbox(key="results").options == ["inside"]
    assert "own" in shown(test)
    assert "secret" not in shown(test)
    assert '<div role="region" aria-label="Results of m in ppl" tabindex="0"' in shown(test)


@pytest.mark.parametrize("part", ["results.json", "records", "record"])
def test_results_with_a_part_that_links_out_are_left_out(root: Path, part: str) -> None:
    outside = root.parent / "outside"
    assert [folder.name for folder in results.folders(root)] == ["inside"]
    inside, target = root / "inside", outside / part
    if part == "record":
        target = next((outside / "records").iterdir())
        (inside / "records" / target.name).symlink_to(target)
    else:
        (inside / part).rename(inside / "moved")
        (inside / part).symlink_to(target)
    assert results.folders(root) == []


def test_links_among_the_results_of_one_root_are_followed(root: Path) -> None:
    (root / "again").symlink_to(root / "inside")
    assert [folder.name for folder in results.folders(root)] == ["again", "inside"]


def test_one_showing_of_the_page_reads_each_record_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured(root / "inside", "full")
    read, counted = Results._read, []
    monkeypatch.setattr(Results, "_read", lambda self, file: counted.append(file.name) or read(self, file))
    test = opened(None, monkeypatch, RESULTS, root=root, results="inside")
    assert test.selectbox(key="baseline").value == "full"
    assert sorted(counted) == sorted({*counted}) and len(counted) == 4
    counted.clear()
    test.selectbox(key="baseline").set_value("own").run()
    assert "own" in shown(test) and len(counted) == 4
