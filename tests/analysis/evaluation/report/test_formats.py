"""The three forms of a table have the same cells."""

from __future__ import annotations

import dataclasses
import html.parser

import pytest

from analysis.evaluation.report import aggregate, formats
from analysis.evaluation.sweep.records import Record
from tests.analysis.evaluation.report.examples import EVIL


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
    assert made.head[5:10] == ["score", "95 % interval", "minus full cache", "95 % interval of it", "in common"]
    assert made.rows[0][:6] == ["512", "full cache", "all", "8", "0", formats.format_number(rows[0].estimate.mean)]
    assert made.rows[1][:5] == ["512", "TreeKV", "64", "7", "1"]
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
