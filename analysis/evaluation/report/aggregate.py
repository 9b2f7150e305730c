"""Records as tables: means over documents with bootstrap intervals, and paired differences to a baseline."""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from scipy import stats

from analysis.evaluation.sweep.records import Record
from treekv.errors import TreeKVError

FACTS: Final = ("dataset", "subtask", "haystack", "length")  # of a document: each value has rows of its own
CONFIDENCE: Final = 0.95
FLOOR, CEILING = 5.0, 95.0  # per cent: the full cache's score there says nothing about compression
_RESAMPLES: Final = 5000
_SIZES: Final = ("cache_size", "sink_size", "recent_size", "block_size", "window_size")
_LOWER: Final = ("perplexity", "loss", "bits", "seconds", "bytes")


@dataclass(frozen=True)
class Estimate:
    """A mean over documents with its bootstrap interval; no interval for fewer than two."""

    mean: float
    low: float | None
    high: float | None
    documents: int


@dataclass(frozen=True)
class Row:
    """One model, task, settings and budget.

    Attributes:
        model, task, name: labels, different for what is different.
        group: the documents' facts that have rows of their own, such as the length.
        budget: as asked for, None for the full cache.
        score: the name of the score that is estimated; empty when every document of the task failed.
        estimate: of the score; None when every document failed.
        difference: to the baseline over the documents that both have; None without one and for itself.
        others: means of the other scores.
        failed: documents without a score.
        answers: whether the score is that of answers, in percent.
    """

    model: str
    task: str
    name: str
    group: dict[str, Any]
    budget: int | str | None
    score: str
    estimate: Estimate | None
    difference: Estimate | None
    others: dict[str, float]
    failed: int
    answers: bool


@dataclass(frozen=True)
class Cell:
    """The records behind a row."""

    model: str
    task: str
    name: str
    group: dict[str, Any]
    budget: int | str | None
    records: list[Record] = field(repr=False)

    @property
    def place(self) -> tuple[str, str, str]:
        """Where rows are compared with each other: model, task, group."""
        return self.model, self.task, json.dumps(self.group, sort_keys=True)


def cells(records: Iterable[Record]) -> list[Cell]:
    """Records by model, task, group, settings and budget, the full cache first, then by budget and name."""
    records = [record for record in current(records) if record.of.document is not None]
    models = _labels(records, lambda r: r.of.model, lambda r: {"dtype": r.of.dtype, "device": r.of.device})
    tasks = _labels(records, lambda r: r.of.task, _options)
    names = _labels(records, lambda r: str(r.of.name), _settings)
    found: dict[str, Cell] = {}
    for record, model, task, name in zip(records, models, tasks, names, strict=True):
        group: dict[str, Any] = {key: record.facts[key] for key in FACTS if key in record.facts}
        cell = Cell(model, task, name, group, record.of.budget, [])
        key = json.dumps([*cell.place, name, record.of.budget])
        found.setdefault(key, cell).records.append(record)
    return sorted(found.values(), key=_order)


def current(records: Iterable[Record]) -> list[Record]:
    """Records without those of a document that has changed since: of each only what was measured last."""
    last: dict[str, Record] = {}
    for record in records:
        of = dataclasses.replace(record.of, content=None).key
        if of not in last or _date(record) >= _date(last[of]):
            last[of] = record
    return list(last.values())


def _date(record: Record) -> str:
    return str(record.about.get("date", ""))


def table(records: Iterable[Record], baseline: str | None = "full", score: str | None = None) -> list[Row]:
    """A row for every cell of a sweep.

    Documents are the unit: scores of several seeds are first averaged for each document, so that a document counts
    once. Intervals are bootstrap intervals (BCa) of the mean at 95 %; the draws are the same each time.

    Args:
        records: what a results folder holds.
        baseline: the settings that all others are compared with, at the same budget or, where they have but one
            budget (the full cache), at that. None for no comparison.
        score: which score; each task's main one by default. Tasks that do not have it are left out.

    Raises:
        TreeKVError: no record has such settings or such a score.
    """
    found = cells(records)
    if baseline is not None and found and baseline not in {cell.name for cell in found}:
        known = ", ".join(sorted({cell.name for cell in found}))
        raise TreeKVError(f"there are no settings {baseline!r} to compare with; there are {known}")
    by_place: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in found:
        by_place.setdefault(cell.place, []).append(cell)
    rows: list[Row] = []
    for together in by_place.values():
        there = {name for cell in together for record in cell.records for name in record.scores}
        if score is None or score in there:
            main = score or _main(together)
            rows += [_row(cell, main, _baseline(cell, together, baseline)) for cell in together]
    if score is not None and found and not rows:
        known = ", ".join(sorted({name for cell in found for r in cell.records for name in r.scores}))
        raise TreeKVError(f"no record has the score {score!r}; there are {known}")
    return rows


def lower_is_better(score: str) -> bool:
    """Whether less of a score is better, by its name."""
    return any(word in score for word in _LOWER)


def notes(rows: Sequence[Row], records: Sequence[Record]) -> list[str]:
    """What a reader must know: floors and ceilings, mixed versions, missing documents."""
    said = []
    changed = len(records) - len(current(records))
    if changed:
        said.append(f"Left out are {changed} records of documents that have changed since; the newer ones count.")
    for row in rows:
        if row.budget is not None or not row.answers or row.estimate is None:
            continue
        where = f"{row.model}, {row.task}{described(row.group)}"
        mean = f"{row.estimate.mean:.1f} %"
        if row.estimate.mean <= FLOOR:
            said.append(f"{where}: the full cache scores {mean}, at the floor; no evidence about compression.")
        elif row.estimate.mean >= CEILING:
            said.append(f"{where}: the full cache scores {mean}, at the ceiling; little evidence about compression.")
    for what in ("versions", "machine"):
        kinds = {json.dumps(record.about[what], sort_keys=True) for record in records if what in record.about}
        if len(kinds) > 1:
            told = "versions of the software" if what == "versions" else "machines"
            said.append(f"The records were made with {len(kinds)} different {told}; each record says which.")
    failed = sum(row.failed for row in rows)
    if failed:
        said.append(f"Measurements that failed and are in no mean: {failed}; treekv eval tries them again.")
    return said


def failures(records: Iterable[Record]) -> list[str]:
    """Failed records in one sentence each, the same reason of the same task once with its count."""
    counts: dict[str, int] = {}
    for record in current(records):
        if record.error is not None:
            reason = f"{record.of.model}, {record.of.task}: {record.error}"
            counts[reason] = counts.get(reason, 0) + 1
    return [f"{reason} ({count} times)" if count > 1 else reason for reason, count in sorted(counts.items())]


def described(group: dict[str, Any]) -> str:
    """A group's facts in words, after a comma; nothing when there are none."""
    return "".join(f", {key} {value:,}" if isinstance(value, int) else f", {value}" for key, value in group.items())


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and 95 % bootstrap interval of values, one for each document."""
    data = np.asarray(values, dtype=float)
    mean = float(data.mean())
    if len(data) < 2:
        return Estimate(mean, None, None, len(data))
    if np.ptp(data) == 0:
        return Estimate(mean, mean, mean, len(data))
    for method in ("BCa", "percentile"):  # BCa has no answer for some small samples
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = stats.bootstrap(
                (data,),
                np.mean,
                n_resamples=_RESAMPLES,
                confidence_level=CONFIDENCE,
                method=method,
                rng=np.random.default_rng(0),
            ).confidence_interval
        if np.isfinite(found.low) and np.isfinite(found.high):
            return Estimate(mean, float(found.low), float(found.high), len(data))
    raise AssertionError("percentiles of finite means are finite")


def by_document(cell: Cell, score: str) -> dict[str, float]:
    """Each document's score, the mean over seeds where there are several; by the document's key and content."""
    values: dict[str, list[float]] = {}
    for record in cell.records:
        if record.error is None and score in record.scores:
            values.setdefault(f"{record.of.document} {record.of.content}", []).append(record.scores[score])
    return {document: float(np.mean(scores)) for document, scores in sorted(values.items())}


def _row(cell: Cell, score: str, baseline: Cell | None) -> Row:
    own = by_document(cell, score)
    difference = None
    if baseline is not None:
        other = by_document(baseline, score)
        apart = [value - other[document] for document, value in own.items() if document in other]
        difference = estimate(apart) if apart else None
    names = dict.fromkeys(name for record in cell.records for name in record.scores if name != score)
    return Row(
        model=cell.model,
        task=cell.task,
        name=cell.name,
        group=cell.group,
        budget=cell.budget,
        score=score,
        estimate=estimate(list(own.values())) if own else None,
        difference=difference,
        others={name: float(np.mean(list(by_document(cell, name).values()))) for name in names},
        failed=sum(record.error is not None for record in cell.records),
        answers=any("answer" in record.detail for record in cell.records),
    )


def _baseline(cell: Cell, together: list[Cell], name: str | None) -> Cell | None:
    if cell.name == name:
        return None
    candidates = [other for other in together if other.name == name]
    same = [other for other in candidates if other.budget == cell.budget]
    return same[0] if same else candidates[0] if len(candidates) == 1 else None


def _main(together: list[Cell]) -> str:
    """The first score of any record; empty where all failed."""
    return next((next(iter(r.scores)) for cell in together for r in cell.records if r.scores), "")


def _options(record: Record) -> dict[str, Any]:
    return {key: value for key, value in record.of.options.items() if key != "seed"}


def _settings(record: Record) -> dict[str, Any]:
    """What makes settings different under one name; sizes that follow from a budget do not."""
    config = record.of.config or {}
    return {key: value for key, value in config.items() if key not in (*_SIZES, "seed")}


def _labels(
    records: list[Record], name: Callable[[Record], str], parts: Callable[[Record], dict[str, Any]]
) -> list[str]:
    """A name for each record, with those parts that differ between records of that name."""
    kinds: dict[str, dict[str, set[str]]] = {}
    for record in records:
        seen = kinds.setdefault(name(record), {})
        for key, value in parts(record).items():
            seen.setdefault(key, set()).add(_plain(value))
    labels = []
    for record in records:
        own = parts(record)
        apart = [key for key, values in kinds[name(record)].items() if len(values) > 1 and own.get(key) is not None]
        words = ", ".join(f"{key} {_plain(own[key])}" for key in apart)
        labels.append(f"{name(record)} ({words})" if words else name(record))
    return labels


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _order(cell: Cell) -> tuple[Any, ...]:
    groups = tuple((key, isinstance(value, str), value) for key, value in cell.group.items())
    return cell.model, cell.task, groups, budget_order(cell.budget), cell.name


def budget_order(budget: int | str | None) -> tuple[int, float]:
    """The full cache, numbers, shares."""
    if budget is None:
        return -1, 0.0
    return (0, float(budget)) if isinstance(budget, int) else (1, float(budget.rstrip("%")))
