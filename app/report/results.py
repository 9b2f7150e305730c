"""The results of an evaluation: for every model and task a table, and the figures that its records allow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import plotly.graph_objects as go

from analysis.evaluation.report import aggregate, figures, formats, length_figure
from analysis.evaluation.report.aggregate import Cell, Row
from analysis.evaluation.report.formats import Table
from analysis.evaluation.sweep.records import FOLDER, MARKER, Record
from analysis.evaluation.sweep.summary import read_records
from app.runs.folder import place_below
from app.text import captions
from treekv.errors import TreeKVError


@dataclass(frozen=True)
class Measurements:
    """The records of a results folder, grouped, and the names of the files that are damaged."""

    records: list[Record]
    cells: list[Cell]
    damaged: list[str]

    @property
    def names(self) -> list[str]:
        """The settings that were measured, in the order of the tables."""
        return list(dict.fromkeys(cell.name for cell in self.cells))

    @property
    def default_baseline(self) -> str | None:
        """The full cache, where it was measured."""
        return "full" if "full" in self.names else None


@dataclass(frozen=True)
class Section:
    """The table and the figures of one model and task."""

    table: Table
    pictures: list[tuple[Callable[[], go.Figure], str]]


@dataclass(frozen=True)
class Report:
    """Everything that is shown of a results folder."""

    baseline: str | None
    rows: list[Row]
    sections: list[Section]
    notes: list[str]
    failures: list[str]
    records: int


def folders(root: Path) -> list[Path]:
    """The results folders directly below `root`, by name, without those that link outside it."""
    try:
        names = sorted(marker.parent.name for marker in root.glob(f"*/{MARKER}"))
    except OSError:
        return []
    return [root / name for name in names if _inside(root, name)]


def _inside(root: Path, name: str) -> bool:
    try:
        folder = place_below(root, name)
        records = folder / FOLDER
        linked = [file for file in records.glob("*.json") if file.is_symlink()]
        return all(path.resolve().is_relative_to(root.resolve()) for path in (folder / MARKER, records, *linked))
    except (TreeKVError, OSError):
        return False


def read(folder: Path) -> Measurements:
    """Read all records of a results folder, which `treekv eval` wrote, or of a summary of one.

    Raises:
        TreeKVError: not a results folder, or one without records.
    """
    records, damaged = read_records(folder)
    cells = aggregate.group_cells(records)
    if not cells and not aggregate.failures(records):
        raise TreeKVError(f"the results folder {str(folder)!r} has no records yet; fill it with treekv eval")
    return Measurements(records, cells, damaged)


def summarize(measured: Measurements, baseline: str | None = None, score: str | None = None) -> Report:
    """Tables, figures and notes.

    Args:
        measured: what `read` returned.
        baseline: the settings that all others are compared with; `measured.default_baseline` when None.
        score: which score; each task's main one when None.

    Raises:
        TreeKVError: no such baseline or score.
    """
    baseline = baseline or measured.default_baseline
    rows = aggregate.summarize(measured.records, baseline, score)
    notes = aggregate.notes(rows, measured.records)
    if measured.damaged:
        some = ", ".join(measured.damaged[:3])
        count = len(measured.damaged)
        files = "1 damaged file is" if count == 1 else f"{count} damaged files are"
        notes.append(f"{files} left out ({some}); treekv eval measures {'it' if count == 1 else 'them'} again.")
    sections = [
        _section(made, _of(rows, made), measured.cells, baseline) for made in formats.make_tables(rows, baseline)
    ]
    failures = aggregate.failures(measured.records)
    return Report(baseline, rows, sections, notes, failures, len(measured.records))


def as_markdown(made: Report) -> str:
    """Tables, notes and failures as one text."""
    lists = [("Notes", made.notes), ("Failures", made.failures)]
    parts = [formats.to_markdown(section.table) for section in made.sections]
    parts += [f"**{title}**\n\n" + "".join(f"- {line}\n" for line in lines) for title, lines in lists if lines]
    return "\n".join(parts)


def as_latex(made: Report) -> str:
    """The tables for the package booktabs; notes as comments."""
    notes = "".join(f"% {' '.join(line.split())}\n" for line in (*made.notes, *made.failures))
    return notes + "\n".join(formats.to_latex(section.table) for section in made.sections)


def _of(rows: list[Row], made: Table) -> list[Row]:
    return [row for row in rows if (row.model, row.task) == (made.model, made.task)]


def _section(made: Table, rows: list[Row], cells: list[Cell], baseline: str | None) -> Section:
    own = [cell for cell in cells if (cell.model, cell.task) == (made.model, made.task)]
    pictures: list[tuple[Callable[[], go.Figure], str]] = []
    places: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in own:
        places.setdefault(cell.comparison_key, []).append(cell)
    for together in places.values():
        of = [row for row in rows if row.group == together[0].group and row.estimate is not None]
        if len(of) > 1:
            several = len({row.budget for row in of if row.budget is not None}) > 1
            others = [row for row in of if row.name != baseline]
            # Of perplexities and losses, whose differences are far smaller than those between documents.
            paired = aggregate.lower_is_better(of[0].score) and all(row.difference is not None for row in others)
            draw = partial(figures.quality, of, baseline if paired and others else None)
            caption = captions.QUALITY if several else captions.RANKING
            pictures.append((draw, captions.PAIRED if draw.args[1] is not None else caption))
        if any("by_position" in record.detail for cell in together for record in cell.records):
            pictures.append((_later(figures.loss_by_position, together), captions.LOSS))
        if length_figure.comparable(together, baseline):
            pictures.append((partial(length_figure.loss_by_length, together, str(baseline)), captions.LOSS_BY_LENGTH))
    if any("depth" in record.facts and record.error is None for cell in own for record in cell.records):
        pictures.append((_later(figures.needle_grid, own), captions.NEEDLES))
    return Section(made, pictures)


def _later(draw: Callable[..., go.Figure], what: list[Row] | list[Cell]) -> Callable[[], go.Figure]:
    return lambda: draw(what)
