"""Tables of results as Markdown, HTML and LaTeX, all from the same cells."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from analysis.evaluation.report.aggregate import Estimate, Row, lower_is_better
from analysis.evaluation.report.titles import settings_title


@dataclass(frozen=True)
class Table:
    """The cells of a table as text, for one model and task; the first `left` columns are left-aligned."""

    model: str
    task: str
    title: str
    head: list[str]
    rows: list[list[str]]
    left: int


def make_tables(rows: Sequence[Row], baseline: str | None = "full") -> list[Table]:
    """One table for each model and task, with only the columns it needs."""
    together: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        together.setdefault((row.model, row.task, row.score), []).append(row)
    return [_table(own, baseline) for own in together.values()]


def to_markdown(table: Table) -> str:
    """A GitHub-flavoured Markdown table below its title."""

    def line(cells: list[str]) -> str:
        return f"| {' | '.join(cells)} |"

    align = ["---"] * table.left + ["---:"] * (len(table.head) - table.left)
    body = [[_escape_markdown(cell) for cell in cells] for cells in (table.head, *table.rows)]
    lines = [f"**{_escape_markdown(table.title)}**", "", line(body[0]), line(align), *map(line, body[1:])]
    return "\n".join(lines) + "\n"


def to_html(table: Table) -> str:
    """A `<table>` element with a caption; all text is escaped."""

    def line(cells: list[str], tag: str) -> str:
        starts = [f'<{tag} class="left">' if i < table.left else f"<{tag}>" for i in range(len(cells))]
        made = [f"{start}{html.escape(cell)}</{tag}>" for start, cell in zip(starts, cells, strict=True)]
        return f"<tr>{''.join(made)}</tr>"

    body = "\n".join(line(row, "td") for row in table.rows)
    return (
        f"<table>\n<caption>{html.escape(table.title)}</caption>\n<thead>{line(table.head, 'th')}</thead>\n"
        f"<tbody>\n{body}\n</tbody>\n</table>\n"
    )


def to_latex(table: Table) -> str:
    """A `table` environment for the package booktabs."""
    columns = "l" * table.left + "r" * (len(table.head) - table.left)
    lines = [" & ".join(_escape_latex(cell) for cell in line) + r" \\" for line in (table.head, *table.rows)]
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{_escape_latex(table.title)}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def format_number(value: float | None, signed: bool = False) -> str:
    """Four significant digits without exponent; a dash for None."""
    if value is None:
        return "-"
    sign = "+" if signed else ""
    if abs(value) >= 1000:
        return format(value, f"{sign},.0f")
    text = format(value, f"{sign}.4g")
    return format(value, f"{sign}.6f") if "e" in text else text


def format_interval(estimate: Estimate | None, signed: bool = False) -> str:
    """The bounds of an estimate; a dash without an interval."""
    if estimate is None or estimate.low is None:
        return "-"
    return f"{format_number(estimate.low, signed)} to {format_number(estimate.high, signed)}"


def _table(rows: list[Row], baseline: str | None) -> Table:
    score = rows[0].score
    groups = list(dict.fromkeys(key for row in rows for key in row.group))
    others = list(dict.fromkeys(name for row in rows for name in row.others))
    compared = any(row.difference is not None for row in rows)
    failed = any(row.failed for row in rows)
    arrow = ("lower" if lower_is_better(score) else "higher") + " is better"
    head = [*groups, "settings", "budget", "documents", *(["failed"] if failed else [])]
    left = len(groups) + 1
    head += [score or "score", "95 % interval"]
    if compared:
        head += [f"minus {settings_title(str(baseline))}", "95 % interval of it", "in common"]
    head += others
    body = [_cells(row, groups, others, compared, failed) for row in rows]
    title = f"{rows[0].task}, {rows[0].model}" + (f": {score}, {arrow}" if score else "")
    return Table(rows[0].model, rows[0].task, title, head, body, left)


def _cells(row: Row, groups: list[str], others: list[str], compared: bool, failed: bool) -> list[str]:
    estimate, difference = row.estimate, row.difference
    cells = [_format_cell(row.group.get(key)) for key in groups]
    cells += [row.title, "all" if row.budget is None else _format_cell(row.budget)]
    cells += [str(estimate.documents if estimate else 0)]
    cells += [str(row.failed)] if failed else []
    cells += [format_number(estimate.mean if estimate else None), format_interval(estimate)]
    if compared:
        cells += [format_number(difference.mean if difference else None, True), format_interval(difference, True)]
        cells += [str(difference.documents) if difference else "-"]
    return cells + [format_number(row.others.get(name)) for name in others]


def _format_cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _escape_markdown(text: str) -> str:
    return "".join("\\" + letter if letter in r"\`*_[]<>|#" else letter for letter in " ".join(text.split()))


_LATEX_ESCAPES = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{letter: "\\" + letter for letter in "&%$#_{}"},
}


def _escape_latex(text: str) -> str:
    return "".join(_LATEX_ESCAPES.get(letter, letter) for letter in text)
