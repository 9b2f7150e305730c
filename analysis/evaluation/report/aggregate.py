"""Aggregate records: means over documents with bootstrap intervals, and paired differences to a baseline."""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from scipy import stats

from analysis.evaluation.report.titles import settings_title
from analysis.evaluation.sweep.records import Record
from analysis.plot.policy_colours import policy_of
from treekv import policies
from treekv.errors import TreeKVError
from treekv.policies import OPTIONS

FACTS: Final = (
    "dataset",
    "subtask",
    "haystack",
    "length",
)  # facts of documents that get a row per value
CONFIDENCE: Final = 0.95
FLOOR, CEILING = 5.0, 95.0  # per cent; a full cache beyond these is no evidence about compression
_RESAMPLES: Final = 5000
_SIZES: Final = ("cache_size", "sink_size", "recent_size", "block_size", "window_size")
_LOWER: Final = ("perplexity", "loss", "bits", "seconds", "bytes", "repeated")


@dataclass(frozen=True)
class Estimate:
    """A mean over documents with its bootstrap interval; fewer than two documents have no interval."""

    mean: float
    low: float | None
    high: float | None
    documents: int


@dataclass(frozen=True)
class Row:
    """The result of one model, task, settings and budget.

    Attributes:
        model, task, name: labels; different models, task options or settings never share one.
        group: the facts of the documents that define the row, such as the length.
        budget: as requested, None for the full cache.
        score: the name of the estimated score; empty if every document of the task failed.
        estimate: of the score; None if every document failed.
        difference: to the baseline over the documents both have; None without a baseline and for the baseline.
        others: means of the other scores by name.
        failed: number of documents without a score.
        answers: whether the score is that of answers, in per cent.
        title: the settings as tables and pictures call them.
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
    title: str = ""

    def __post_init__(self) -> None:
        if not self.title:
            object.__setattr__(self, "title", settings_title(self.name))


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
    def title(self) -> str:
        """The settings as tables and pictures call them."""
        config = self.records[0].of.config if self.records else None
        return settings_title(self.name, "full" if config is None else config.get("policy"))

    @property
    def comparison_key(self) -> tuple[str, str, str]:
        """Model, task and group: rows are compared only with rows of the same key."""
        return self.model, self.task, json.dumps(self.group, sort_keys=True)


def group_cells(records: Iterable[Record]) -> list[Cell]:
    """Group records by model, task, group, settings and budget: the full cache first, then by budget and name."""
    records = [record for record in current(records) if record.of.document is not None]
    models = _labels(records, lambda r: r.of.model, lambda r: {"dtype": r.of.dtype, "device": r.of.device})
    tasks = _labels(records, lambda r: r.of.task, _options)
    names = _labels(records, lambda r: str(r.of.name), _settings)
    found: dict[str, Cell] = {}
    for record, model, task, name in zip(records, models, tasks, names, strict=True):
        group: dict[str, Any] = {key: record.facts[key] for key in FACTS if key in record.facts}
        cell = Cell(model, task, name, group, record.of.budget, [])
        key = json.dumps([*cell.comparison_key, name, record.of.budget])
        found.setdefault(key, cell).records.append(record)
    return sorted(found.values(), key=_order)


def current(records: Iterable[Record]) -> list[Record]:
    """The records that count: of a document whose text has changed only those measured last."""
    last: dict[str, Record] = {}
    for record in records:
        of = dataclasses.replace(record.of, content=None).key
        if of not in last or _date(record) >= _date(last[of]):
            last[of] = record
    return list(last.values())


def _date(record: Record) -> str:
    return str(record.about.get("date", ""))


def summarize(records: Iterable[Record], baseline: str | None = "full", score: str | None = None) -> list[Row]:
    """One row for every cell of a sweep.

    Documents are the unit: scores of several seeds are first averaged per document, so that each document counts
    once. Intervals are 95 % bootstrap intervals (BCa) of the mean; the resampling is the same every time.

    Args:
        records: of a results folder.
        baseline: the settings that all others are compared with, at the same budget or, if they have only one budget
            (the full cache), at that. None for no comparison.
        score: the name of a score; the main one of each task by default. Tasks without it are left out.

    Raises:
        TreeKVError: no record has these settings or this score.
    """
    found = group_cells(records)
    if baseline is not None and found and baseline not in {cell.name for cell in found}:
        known = ", ".join(sorted({cell.name for cell in found}))
        raise TreeKVError(f"there are no settings {baseline!r} to compare with; there are {known}")
    by_place: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in found:
        by_place.setdefault(cell.comparison_key, []).append(cell)
    rows: list[Row] = []
    for together in by_place.values():
        there = {name for cell in together for record in cell.records for name in record.scores}
        if score is None or score in there:
            main = score or _main_score(together)
            rows += [_row(cell, main, _find_baseline(cell, together, baseline)) for cell in together]
    if score is not None and found and not rows:
        known = ", ".join(sorted({name for cell in found for r in cell.records for name in r.scores}))
        raise TreeKVError(f"no record has the score {score!r}; there are {known}")
    return rows


def lower_is_better(score: str) -> bool:
    """Whether lower values of a score are better, judged by its name."""
    return any(word in score for word in _LOWER)


def notes(rows: Sequence[Row], records: Sequence[Record]) -> list[str]:
    """Caveats for the reader: floors and ceilings, mixed versions, missing documents."""
    said = []
    changed = len(records) - len(current(records))
    if changed:
        said.append(f"{changed} records of documents that have changed since are left out; the newer ones count.")
    for row in rows:
        if row.budget is not None or not row.answers or row.estimate is None:
            continue
        where = f"{row.model}, {row.task}{describe_group(row.group)}"
        mean = f"{row.estimate.mean:.1f} %"
        if row.estimate.mean <= FLOOR:
            said.append(f"{where}: the full cache scores {mean}, at the floor; no evidence about compression.")
        elif row.estimate.mean >= CEILING:
            said.append(f"{where}: the full cache scores {mean}, at the ceiling; little evidence about compression.")
    titles = {settings_title(name): words for name, words in _variants(records).items()}
    untold = [f"{title}: {words}" for title, words in titles.items() if words not in title]
    if untold:
        said.append(f"Default sizes: {'; '.join(untold)}.")
    for what in ("versions", "machine"):
        kinds = {json.dumps(record.about[what], sort_keys=True) for record in records if what in record.about}
        if len(kinds) > 1:
            kind = "software versions" if what == "versions" else "machines"
            said.append(f"The records were made with {len(kinds)} different {kind}; each record says which.")
    failed = sum(row.failed for row in rows)
    if failed:
        said.append(f"Measurements that failed and are left out of all means: {failed}; treekv eval retries them.")
    return said


def _variants(records: Iterable[Record]) -> dict[str, str]:
    """Whose default sizes the settings have, by name, where a policy comes with several."""
    shown = {}
    for record in records:
        config = record.of.config or {}
        policy, variant = config.get("policy"), config.get("variant", policies.PUBLISHED)
        if policy in policies.names() and variant in policies.get(policy).variants:
            shown[str(record.of.name)] = policies.get(policy).variants[variant].title
        elif policy in policies.names() and policies.get(policy).variants:
            shown[str(record.of.name)] = "as published"
    return dict(sorted(shown.items()))


def failures(records: Iterable[Record]) -> list[str]:
    """One sentence per reason why records of a task failed, with the number of records."""
    counts: dict[str, int] = {}
    for record in current(records):
        if record.error is not None:
            reason = f"{record.of.model}, {record.of.task}: {record.error}"
            counts[reason] = counts.get(reason, 0) + 1
    return [f"{reason} ({count} times)" if count > 1 else reason for reason, count in sorted(counts.items())]


def describe_group(group: dict[str, Any]) -> str:
    """The facts of a group in words, each after a comma; empty without facts."""
    return "".join(f", {key} {value:,}" if isinstance(value, int) else f", {value}" for key, value in group.items())


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and 95 % bootstrap interval of `values`, one per document."""
    data = np.asarray(values, dtype=float)
    mean = float(data.mean())
    if len(data) < 2:
        return Estimate(mean, None, None, len(data))
    if np.ptp(data) == 0:
        return Estimate(mean, mean, mean, len(data))
    for method in ("BCa", "percentile"):  # BCa is undefined for some small samples
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


def document_scores(cell: Cell, score: str) -> dict[str, float]:
    """The score of each document, averaged over seeds, by the key and content of the document."""
    values: dict[str, list[float]] = {}
    for record in cell.records:
        if record.error is None and score in record.scores:
            values.setdefault(f"{record.of.document} {record.of.content}", []).append(record.scores[score])
    return {document: float(np.mean(scores)) for document, scores in sorted(values.items())}


def _row(cell: Cell, score: str, baseline: Cell | None) -> Row:
    own = document_scores(cell, score)
    difference = None
    if baseline is not None:
        other = document_scores(baseline, score)
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
        others={name: float(np.mean(list(document_scores(cell, name).values()))) for name in names},
        failed=sum(record.error is not None for record in cell.records),
        answers=any("answer" in record.detail for record in cell.records),
        title=cell.title,
    )


def _find_baseline(cell: Cell, together: list[Cell], name: str | None) -> Cell | None:
    if cell.name == name:
        return None
    candidates = [other for other in together if other.name == name]
    same = [other for other in candidates if other.budget == cell.budget]
    return same[0] if same else candidates[0] if len(candidates) == 1 else None


def _main_score(together: list[Cell]) -> str:
    """The first score of any record; empty if all failed."""
    return next((next(iter(r.scores)) for cell in together for r in cell.records if r.scores), "")


def _options(record: Record) -> dict[str, Any]:
    return {key: value for key, value in record.of.options.items() if key != "seed"}


def _settings(record: Record) -> dict[str, Any]:
    """The fields that distinguish settings of one name; sizes that follow from the budget do not."""
    config = record.of.config or {}
    # Earlier versions accepted, and recorded, options that a policy ignores.
    name = config.get("policy")
    known = policies.get(name) if name in policies.names() else None
    unused = {*OPTIONS} - {*known.options} if known else set()
    kept = {key: value for key, value in config.items() if key not in (*_SIZES, "seed", *unused)}
    size = config.get("cache_size")
    if known and size and kept.get("interval") == known.default_interval(size):
        kept["interval"] = None  # it follows from the size, too
    # A table of sizes by head belongs to one cache size, so tables of different sizes do not tell settings apart.
    return {f"{key} of {size}" if isinstance(value, list) else key: value for key, value in kept.items()}


def _labels(
    records: list[Record], name: Callable[[Record], str], parts: Callable[[Record], dict[str, Any]]
) -> list[str]:
    """A label for each record: its name, with the parts that differ between records of that name."""
    kinds: dict[str, dict[str, set[str]]] = {}
    for record in records:
        seen = kinds.setdefault(name(record), {})
        for key, value in parts(record).items():
            seen.setdefault(key, set()).add(_as_text(value))
    labels = []
    for record in records:
        own = parts(record)
        apart = [key for key, values in kinds[name(record)].items() if len(values) > 1 and own.get(key) is not None]
        words = ", ".join(f"{key} {_as_text(own[key])}" for key in apart)
        labels.append(f"{name(record)} ({words})" if words else name(record))
    return labels


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _order(cell: Cell) -> tuple[Any, ...]:
    groups = tuple((key, isinstance(value, str), value) for key, value in cell.group.items())
    every, policy = policies.names(), policy_of(cell.name)
    place = len(every) if policy is None else every.index(policy)  # the order of policies everywhere
    return cell.model, cell.task, groups, budget_order(cell.budget), place, cell.name


def budget_order(budget: int | str | None) -> tuple[int, float]:
    """Sort key: the full cache, then numbers of tokens, then shares."""
    if budget is None:
        return -1, 0.0
    return (0, float(budget)) if isinstance(budget, int) else (1, float(budget.rstrip("%")))
