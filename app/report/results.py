"""Results in order: for every model and task a table, and the pictures that its records can fill."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import plotly.graph_objects as go

from analysis.evaluation.report import aggregate, figures, formats
from analysis.evaluation.report.aggregate import Cell, Row
from analysis.evaluation.report.formats import Table
from analysis.evaluation.sweep.records import FOLDER, MARKER, Results
from app.runs.folder import place_below
from app.text import captions
from treekv.errors import TreeKVError


@dataclass(frozen=True)
class Section:
    """One model and task."""

    table: Table
    pictures: list[tuple[Callable[[], go.Figure], str]]


@dataclass(frozen=True)
class Report:
    """All that a results folder says."""

    baseline: str | None
    rows: list[Row]
    sections: list[Section]
    notes: list[str]
    failures: list[str]
    records: int


def folders(root: Path) -> list[Path]:
    """The results folders directly below `root`, by name; one with a link that leads out of it is left out."""
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


def read(folder: Path, baseline: str | None = None, score: str | None = None) -> Report:
    """Read a results folder.

    Args:
        folder: what `treekv eval` wrote.
        baseline: settings that all others are compared with; the full cache when None, where it is there.
        score: which score; each task's main one when None.

    Raises:
        TreeKVError: not a results folder, no records, or no such baseline or score.
    """
    results = Results(folder)
    records = results.read()
    cells = aggregate.group_cells(records)
    if baseline is None and any(cell.name == "full" for cell in cells):
        baseline = "full"
    rows = aggregate.summarize(records, baseline, score)
    notes = aggregate.notes(rows, records)
    if results.damaged:
        some = ", ".join(results.damaged[:3])
        notes.append(f"{len(results.damaged)} damaged files are left out ({some}); treekv eval measures them again.")
    failures = aggregate.failures(records)
    if not rows and not failures:
        raise TreeKVError(f"the results folder {str(folder)!r} holds no records yet; fill it with treekv eval")
    sections = [_section(made, _of(rows, made), cells) for made in formats.make_tables(rows, baseline)]
    return Report(baseline, rows, sections, notes, failures, len(records))


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


def _section(made: Table, rows: list[Row], cells: list[Cell]) -> Section:
    own = [cell for cell in cells if (cell.model, cell.task) == (made.model, made.task)]
    pictures: list[tuple[Callable[[], go.Figure], str]] = []
    places: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in own:
        places.setdefault(cell.comparison_key, []).append(cell)
    for together in places.values():
        of = [row for row in rows if row.group == together[0].group and row.estimate is not None]
        if len(of) > 1:
            several = len({row.budget for row in of if row.budget is not None}) > 1
            pictures.append((_later(figures.quality, of), captions.QUALITY if several else captions.RANKING))
        if any("by_position" in record.detail for cell in together for record in cell.records):
            pictures.append((_later(figures.loss_by_position, together), captions.LOSS))
    if any("depth" in record.facts and record.error is None for cell in own for record in cell.records):
        pictures.append((_later(figures.needle_grid, own), captions.NEEDLES))
    return Section(made, pictures)


def _later(draw: Callable[..., go.Figure], what: list[Row] | list[Cell]) -> Callable[[], go.Figure]:
    return lambda: draw(what)
