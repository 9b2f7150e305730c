"""Run a sweep: skip what is measured, write each record as soon as it is made, continue after failures."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from analysis.evaluation.sweep.grid import Grid, ModelSpec, TaskSpec
from analysis.evaluation.sweep.records import UNFINISHED, Record, Results
from analysis.evaluation.sweep.runner import CellJob, OneProcess, batches, one_line, task_definition
from analysis.evaluation.tasks import base
from analysis.evaluation.tasks.base import Document, Task
from analysis.progress import Progress
from treekv.errors import TreeKVError


class Workers(Protocol):
    """What runs the measurements: `runner.OneProcess` or `ray_workers.RayWorkers`."""

    def documents(self, model: ModelSpec, task: Task) -> list[Document]: ...

    def records(self, batches: Iterable[list[CellJob]], progress: Progress | None = None) -> Iterator[Record]: ...

    def close(self) -> None: ...


@dataclass
class Outcome:
    """How a sweep ended.

    Attributes:
        measured: new records with scores.
        skipped: measurements whose records already existed.
        failed: one sentence for each measurement that failed in this run.
        unwritten: records that could not be written before the end and are lost.
        reason: why they could not be written.
        interrupted: whether the user stopped the sweep.
    """

    measured: int = 0
    skipped: int = 0
    failed: list[str] = field(default_factory=list)
    unwritten: int = 0
    reason: str = ""
    interrupted: bool = False

    @property
    def complete(self) -> bool:
        """Whether every requested measurement has a record."""
        return not (self.failed or self.unwritten or self.interrupted)


def run_sweep(
    grid: Grid,
    results: Results,
    start_workers: Callable[[], Workers] | None = None,
    *,
    create: Callable[..., Task] | None = None,
    on_record: Callable[[Record], None] | None = None,
    on_total: Progress | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Measure every cell of a grid that has no record yet.

    A record is on disk before the next measurement starts, so a kill at any moment loses at most the measurement in
    progress, and the same call continues from there. Failures are recorded too and retried in the next run. While the
    disk is full, records are kept in memory and written as soon as there is space.

    Args:
        grid: what to measure.
        results: the folder to write to.
        start_workers: called once the tasks are known to be valid; by default everything runs in this process, and
            long streams that are interrupted go on from the folder `unfinished` in `results`.
        create: makes a task from its name and options; by default `analysis.evaluation.tasks.base.create`.
        on_record: called with each new record.
        on_total: called as on_total(records done, records requested); the second grows model by model.
        progress: called as progress(done, total) within a measurement, if it runs in this process.

    Raises:
        TreeKVError: before any measurement, for invalid task options or a folder that cannot be written.
    """
    tasks = tasks_of(grid, create)
    results.create()
    workers = start_workers() if start_workers else OneProcess(unfinished=results.path / UNFINISHED)
    sweep = _Sweep(grid, results, workers, on_record or (lambda record: None), on_total or (lambda done, total: None))
    try:
        for model in grid.models:
            jobs = sweep.missing_jobs(model, tasks)
            for record in workers.records(batches(jobs, grid.batch), progress):
                sweep.keep(record)
    except KeyboardInterrupt:
        sweep.outcome.interrupted = True
    finally:
        sweep.flush()
        workers.close()
    if sweep.outcome.complete:  # states of streams that were measured in another company since
        shutil.rmtree(results.path / UNFINISHED, ignore_errors=True)
    return sweep.outcome


class _Sweep:
    """The counts and the unwritten records of one run."""

    def __init__(
        self, grid: Grid, results: Results, workers: Workers, on_record: Callable[[Record], None], on_total: Progress
    ) -> None:
        self.outcome = Outcome()
        self._grid, self._results, self._workers = grid, results, workers
        self._on_record, self._on_total = on_record, on_total
        self._unwritten: list[Record] = []
        self._done = self._total = 0

    def missing_jobs(self, model: ModelSpec, tasks: list[tuple[int, Task]]) -> list[CellJob]:
        """The jobs of a model that have no record yet; a task without documents is recorded as a failure."""
        jobs: list[CellJob] = []
        for seed, task in tasks:
            of = task_definition(model, task, seed)
            try:
                documents = self._workers.documents(model, task)
                if not documents:
                    raise TreeKVError("it has no documents")
            except Exception as error:
                self._total += 1
                self.keep(Record(of=of, error=one_line(error)))
                continue
            self._results.remove(of.key)
            jobs += self._jobs(model, seed, task, documents)
        self._on_total(self._done, self._total)
        return jobs

    def _jobs(self, model: ModelSpec, seed: int, task: Task, documents: list[Document]) -> Iterator[CellJob]:
        for document in documents:
            for setting in self._grid.settings:
                for budget in setting.budgets(self._grid.budgets):
                    self._total += 1
                    job = CellJob(model, task, setting, budget, seed, document)
                    if self._is_measured(job):
                        self.outcome.skipped += 1
                        self._done += 1
                    else:
                        yield job

    def _is_measured(self, job: CellJob) -> bool:
        try:
            there = self._results.get(job.definition().key)
        except TreeKVError:  # the settings do not fit this document; measuring it records why
            return False
        return there is not None and there.error is None

    def keep(self, record: Record) -> None:
        """Count a new record and write it."""
        self._done += 1
        if record.error is None:
            self.outcome.measured += 1
        else:
            self.outcome.failed.append(describe_failure(record))
        self._unwritten.append(record)
        self.flush()
        self._on_record(record)
        self._on_total(self._done, self._total)

    def flush(self) -> None:
        """Write the records that could not be written so far."""
        try:
            while self._unwritten:
                self._results.write(self._unwritten[0])
                self._unwritten.pop(0)
        except TreeKVError as error:
            self.outcome.reason = str(error)
        self.outcome.unwritten = len(self._unwritten)


def describe_failure(record: Record) -> str:
    """A failed record in one sentence."""
    of = record.of
    words = [of.model, of.task]
    if of.document is not None:
        words += [f"document {of.document}", str(of.name)]
        words += [f"budget {of.budget}"] if of.budget is not None else []
    return f"{', '.join(words)}: {record.error}"


def tasks_of(grid: Grid, create: Callable[..., Task] | None = None) -> list[tuple[int, Task]]:
    """Every task with every seed."""
    make = create or base.create
    return [(seed, _with_seed(make, spec, seed)) for spec in grid.tasks for seed in grid.seeds]


def _with_seed(create: Callable[..., Task], spec: TaskSpec, seed: int) -> Task:
    """The task with this seed, unless its options have a seed or it draws nothing at random."""
    if "seed" in spec.options:
        return create(spec.name, **spec.options)
    try:
        return create(spec.name, **spec.options, seed=seed)
    except TreeKVError:
        return create(spec.name, **spec.options)  # if the seed was not the reason, this raises the reason
