"""Make the tables of the docs again from the summaries in `benchmarks/summaries`: no number in them is typed.

    python benchmarks/tables.py            # rewrites README.md and docs/*.md
    python benchmarks/tables.py --check    # says which pages would change

A table stands between `<!-- results: {...} -->` and `<!-- end of results -->`. The braces say, as YAML:

    records   the name of a summary, or a list of them
    score     which one; the main one of the task by default; a list of them makes a column for each
    where     what documents and settings must have: budget, length, files, dataset, question, model; of these but the
              budget a list of several
    against   the settings that others are compared with, in paired differences
    across    a column for each budget, length, files or value of an option, instead of columns for one score
    closes    true for the share of the distance between StreamingLLM and the full cache that a mean score closes
    settings  which of them, in this order; all by default, the full cache first, then the best first
"""

from __future__ import annotations

import argparse
import functools
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from analysis.evaluation.report.aggregate import Cell, document_scores, estimate, group_cells, lower_is_better
from analysis.evaluation.report.titles import settings_title
from analysis.evaluation.sweep.summary import read_summary

ROOT = Path(__file__).resolve().parents[1]
SUMMARIES = ROOT / "benchmarks" / "summaries"
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
BLOCK = re.compile(r"(<!-- results: (\{.*?\}) -->\n)(.*?)(<!-- end of results -->)", re.DOTALL)
KEYS = ("records", "score", "where", "against", "across", "closes", "settings")
MISSING = "not measured"
TEXTS = {
    "novels": "novels",
    "public-novels": "novels",
    "wikitext": "WikiText-2",
    "articles": "articles",
    "code": "code",
}


@dataclass(frozen=True)
class Entry:
    """One cell of a sweep as a table needs it; `place` is that of its column, None where it fits all."""

    name: str
    budget: int | str | None
    place: Any
    together: tuple[str, str, str]
    scores: dict[str, float]
    megabytes: float | None

    @property
    def mean(self) -> float:
        return float(np.mean(list(self.scores.values())))


def rewritten(page: str, summaries: Path = SUMMARIES) -> str:
    """The text of a page with all of its tables made again."""
    return BLOCK.sub(lambda found: found[1] + table(yaml.safe_load(found[2]), summaries) + found[4], page)


def table(wanted: dict[str, Any], summaries: Path = SUMMARIES) -> str:
    """The Markdown table that a block asks for.

    Raises:
        ValueError: an unknown key, or nothing fits it.
    """
    unknown = set(wanted) - set(KEYS)
    if unknown:
        raise ValueError(f"a table of results has no {', '.join(sorted(unknown))}; it has {', '.join(KEYS)}")
    records = wanted["records"]
    cells = _cells(tuple([records] if isinstance(records, str) else records), summaries)
    cells = [cell for cell in cells if _fits(cell, wanted.get("where", {}))]
    if not cells:
        raise ValueError(f"no records fit {wanted}")
    score = wanted.get("score") or next(iter(cells[0].records[0].scores))
    columns, scores = isinstance(score, list), score if isinstance(score, list) else [score]
    made = [_entry(cell, one, one if columns else wanted.get("across")) for one in scores for cell in cells]
    entries = [entry for entry in made if entry.scores]
    order = wanted.get("settings") or _best_first(entries, scores[0])
    unknown = set(order) - {entry.name for entry in entries}
    if unknown:
        raise ValueError(f"no record of {', '.join(sorted(unknown))} fits {wanted}")
    if columns or "across" in wanted:
        head, rows = _across(entries, scores[0], order, wanted)
    else:
        head, rows = _down(entries, scores[0], order, wanted)
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _down(entries: list[Entry], score: str, order: list[str], wanted: dict[str, Any]) -> tuple[list[str], list[Any]]:
    """A row for each settings and budget."""
    against = wanted.get("against")
    several = len({entry.budget for entry in entries} - {None}) > 1
    head = ["settings", *(["kept"] if several else []), _unit(score)]
    head += [f"minus {settings_title(against)}", "95 % interval"] if against else []
    head += [*(["closes"] if wanted.get("closes") else []), "MB", "documents"]
    rows = []
    places = [(entry.name, entry.budget) for entry in entries]
    if len(set(places)) < len(places):
        raise ValueError(f"several cells of one settings and budget fit a table: {wanted}")
    shown = [entry for entry in entries if entry.name in order]
    most = max((len(entry.scores) for entry in shown), default=0)
    shown = [entry for entry in shown if len(entry.scores) == most]  # with a part of them means are not comparable
    if not shown:
        raise ValueError(f"no settings fit a table: {wanted}")
    for entry in sorted(shown, key=lambda entry: (_size(entry.budget) if several else 0, order.index(entry.name))):
        row = [_bold(settings_title(entry.name), entry.name == against), *([_kept(entry.budget)] if several else [])]
        row += [_number(entry.mean, score)]
        row += _difference(entry, entries, score, against) if against else []
        row += [_closes(entry, entries)] if wanted.get("closes") else []
        row += ["" if entry.megabytes is None else f"{entry.megabytes:.1f}", str(len(entry.scores))]
        rows.append(row)
    return head, rows


def _across(entries: list[Entry], score: str, order: list[str], wanted: dict[str, Any]) -> tuple[list[str], list[Any]]:
    """A row for each settings, a column for each place."""
    against = wanted.get("against")
    places = list(dict.fromkeys(entry.place for entry in entries if entry.place is not None))
    numbers = wanted.get("across") in ("budget", "length")
    if numbers:
        places.sort(key=_size)
    rows = []
    for name in order:
        row = [_bold(settings_title(name), name == against)]
        for place in places:
            column = [entry for entry in entries if entry.place in (place, None)]
            fitting = [entry for entry in column if entry.name == name]
            if len(fitting) > 1:
                raise ValueError(f"{len(fitting)} cells of {name!r} fit one place of a table: {wanted}")
            entry = fitting[0] if fitting else None
            if entry is None or len(entry.scores) < max(len(one.scores) for one in column):
                row.append(MISSING)  # also if it has only a part of the documents of the others
            elif wanted.get("closes"):
                row.append(_closes(entry, column))
            else:
                apart = _difference(entry, column, score, against) if against and name != against else []
                row.append(_number(entry.mean, score) + (f"; {apart[0]} ({apart[1]})" if apart else ""))
        rows.append(row)
    return ["settings", *(_kept(place) if numbers else str(place) for place in places)], rows


def _difference(entry: Entry, entries: list[Entry], score: str, against: str) -> list[str]:
    """The mean paired difference and its interval, as text."""
    if entry.name == against:
        return ["", ""]
    same = [other for other in entries if other.name == against and other.together == entry.together]
    same = [other for other in same if other.budget == entry.budget] or same
    other = same[0].scores if len(same) == 1 else {}
    apart = [value - other[document] for document, value in entry.scores.items() if document in other]
    if not apart:
        return [MISSING, ""]
    found = estimate(apart)
    if found.low is None or found.high is None:
        return [_number(found.mean, score, True), ""]
    return [
        _number(found.mean, score, True),
        f"{_number(found.low, score, True)} to {_number(found.high, score, True)}",
    ]


def _closes(entry: Entry, entries: list[Entry]) -> str:
    """The share of the distance between StreamingLLM and the full cache, of the documents that all three have."""
    same = [other for other in entries if other.together == entry.together]
    full = next((other for other in same if other.name == "full"), None)
    window = next((other for other in same if other.name == "streaming" and other.budget == entry.budget), None)
    if full is None or window is None or entry.name in ("full", "streaming"):
        return ""
    common = [document for document in entry.scores if document in full.scores and document in window.scores]
    own, best, worst = (np.mean([one.scores[document] for document in common]) for one in (entry, full, window))
    return f"{100 * (worst - own) / (worst - best):.0f} %"


def _entry(cell: Cell, score: str, across: str | None) -> Entry:
    places = {"budget": cell.budget, "length": cell.group.get("length"), "files": _files(cell), None: ""}
    option = cell.records[0].of.options.get(across or "")
    if option is not None:
        places.setdefault(across, " and ".join(map(str, option)) if isinstance(option, list) else str(option))
    # A column for a score, such as perplexity_2048.
    places.setdefault(across, re.sub(r"\d+", lambda found: f"{int(found[0]):,}", (across or "").replace("_", " ")))
    held = document_scores(cell, "cache_bytes")
    megabytes = float(np.mean(list(held.values()))) / 1e6 if held else None
    scores = document_scores(cell, score)
    return Entry(cell.name, cell.budget, places[across], cell.comparison_key, scores, megabytes)


def _best_first(entries: list[Entry], score: str) -> list[str]:
    """All names: the full cache, then by their mean over all entries."""
    means = {name: np.mean([e.mean for e in entries if e.name == name]) for name in {e.name for e in entries}}
    sign = 1 if lower_is_better(score) else -1
    return sorted(means, key=lambda name: (name != "full", sign * means[name], name))


@functools.cache
def _cells(names: tuple[str, ...], summaries: Path) -> list[Cell]:
    return group_cells([record for name in names for record in read_summary(summaries / f"{name}.json")])


def _fits(cell: Cell, where: dict[str, Any]) -> bool:
    has = {**cell.records[0].of.options, **cell.group, "files": _files(cell), "model": cell.records[0].of.model}
    asked = {key: value if isinstance(value, list) else [value] for key, value in where.items() if key != "budget"}
    fits = all(has.get(key) in values for key, values in asked.items())
    return fits and (cell.budget is None or cell.budget == where.get("budget", cell.budget))


def _files(cell: Cell) -> str:
    """The texts of a cell in a word: the names of its folders."""
    files = cell.records[0].of.options.get("files") or cell.records[0].of.options.get("haystacks") or []
    words = [Path(str(file)).name for file in files]
    return " and ".join(TEXTS.get(word, word) for word in words)


def _size(value: Any) -> float:
    return -1 if value is None else float(str(value).rstrip("%"))


def _kept(value: Any) -> str:
    return "all" if value is None else f"{value:,}" if isinstance(value, int) else str(value).replace("%", " %")


def _unit(score: str) -> str:
    return {"loss": "nats per token"}.get(score, score.split("_")[0])


def _number(value: float, score: str, signed: bool = False) -> str:
    digits = 3 if score == "loss" else 2 if lower_is_better(score) else 1
    return format(value, f"{'+' if signed else ''}.{digits}f")


def _bold(text: str, bold: bool) -> str:
    return f"**{text}**" if bold else text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a page would change")
    check = parser.parse_args().check
    stale = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        made = rewritten(text)
        if made != text:
            stale.append(page.relative_to(ROOT).as_posix())
            if not check:
                page.write_text(made, encoding="utf-8")
    print(f"{'would change' if check else 'changed'}: {', '.join(stale)}" if stale else "all tables are up to date")
    sys.exit(bool(stale) and check)


if __name__ == "__main__":
    main()
