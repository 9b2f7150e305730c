"""Run a sweep: skip what is there, keep every record the moment it is made, go on after faults."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from analysis.evaluation.sweep.grid import Grid, Model, TaskSpec
from analysis.evaluation.sweep.records import Record, Results
from analysis.evaluation.sweep.runner import Job, OneProcess, Report, batches, outline, sentence
from treekv.errors import TreeKVError

if TYPE_CHECKING:
    from analysis.evaluation.tasks.base import Document, Task


class Workers(Protocol):
    """Who measures: `sweep_runner.OneProcess` or `sweep_ray.RayWorkers`."""

    def documents(self, model: Model, task: Task) -> list[Document]: ...

    def records(self, batches: Iterable[list[Job]], progress: Report | None = None) -> Iterator[Record]: ...

    def close(self) -> None: ...


@dataclass
class Outcome:
    """How a sweep ended.

    Attributes:
        measured: new records with scores.
        skipped: records that were there.
        failed: one sentence for each measurement that failed in this run.
        unwritten: records that could not be written in the end, and lost.
        reason: why they could not.
        interrupted: the user stopped it.
    """

    measured: int = 0
    skipped: int = 0
    failed: list[str] = field(default_factory=list)
    unwritten: int = 0
    reason: str = ""
    interrupted: bool = False

    @property
    def complete(self) -> bool:
        """Whether everything that was asked for is there."""
        return not (self.failed or self.unwritten or self.interrupted)


def run(
    grid: Grid,
    results: Results,
    start: Callable[[], Workers] = OneProcess,
    *,
    create: Callable[..., Task] | None = None,
    told: Callable[[Record], None] | None = None,
    overall: Report | None = None,
    progress: Report | None = None,
) -> Outcome:
    """Measure what of a grid is not there yet.

    A record is on the disk before the next one is begun, so a kill at any moment loses at most what was being
    measured, and the same call goes on from there. Failures are records too; they are tried again in the next run.
    While the disk is full, records are kept in memory and written as soon as there is room.

    Args:
        grid: what to measure.
        results: where to.
        start: gives who measures, once the grid is known to be right; this process by default.
        create: makes a task from its name and options; by default those of `analysis.evaluation.task`.
        told: called with each new record.
        overall: called as overall(records there, records wanted); what is wanted is known model by model.
        progress: called as progress(done, total) within a record, where it is made in this process.

    Raises:
        TreeKVError: before any work, for a task's wrong options or a folder that cannot be written.
    """
    tasks = _tasks(grid, create)
    results.create()
    workers = start()
    sweep = _Sweep(grid, results, workers, told or (lambda record: None), overall or (lambda done, total: None))
    try:
        for model in grid.models:
            jobs = sweep.wanted(model, tasks)
            for record in workers.records(batches(jobs, grid.batch), progress):
                sweep.keep(record)
    except KeyboardInterrupt:
        sweep.outcome.interrupted = True
    finally:
        sweep.flush()
        workers.close()
    return sweep.outcome


class _Sweep:
    """What a run keeps count of."""

    def __init__(
        self, grid: Grid, results: Results, workers: Workers, told: Callable[[Record], None], overall: Report
    ) -> None:
        self.outcome = Outcome()
        self._grid, self._results, self._workers = grid, results, workers
        self._told, self._overall = told, overall
        self._unwritten: list[Record] = []
        self._done = self._total = 0

    def wanted(self, model: Model, tasks: list[tuple[int, Task]]) -> list[Job]:
        """The model's jobs that have no record yet; a task without documents becomes a failure."""
        jobs: list[Job] = []
        for seed, task in tasks:
            of = outline(model, task, seed)
            try:
                documents = self._workers.documents(model, task)
                if not documents:
                    raise TreeKVError("it has no documents")
            except Exception as error:
                self._total += 1
                self.keep(Record(of=of, error=sentence(error)))
                continue
            self._results.remove(of.key)
            jobs += self._jobs(model, seed, task, documents)
        self._overall(self._done, self._total)
        return jobs

    def _jobs(self, model: Model, seed: int, task: Task, documents: list[Document]) -> Iterator[Job]:
        for document in documents:
            for setting in self._grid.settings:
                for budget in setting.budgets(self._grid.budgets):
                    self._total += 1
                    job = Job(model, task, setting, budget, seed, document)
                    if self._is_there(job):
                        self.outcome.skipped += 1
                        self._done += 1
                    else:
                        yield job

    def _is_there(self, job: Job) -> bool:
        try:
            there = self._results.get(job.definition().key)
        except TreeKVError:  # settings that do not fit this document: measuring says so
            return False
        return there is not None and there.error is None

    def keep(self, record: Record) -> None:
        self._done += 1
        if record.error is None:
            self.outcome.measured += 1
        else:
            self.outcome.failed.append(describe(record))
        self._unwritten.append(record)
        self.flush()
        self._told(record)
        self._overall(self._done, self._total)

    def flush(self) -> None:
        """Write what could not be written so far."""
        try:
            while self._unwritten:
                self._results.write(self._unwritten[0])
                self._unwritten.pop(0)
        except TreeKVError as error:
            self.outcome.reason = str(error)
        self.outcome.unwritten = len(self._unwritten)


def describe(record: Record) -> str:
    """A failed record in one sentence."""
    of = record.of
    words = [of.model, of.task]
    if of.document is not None:
        words += [f"document {of.document}", str(of.name)]
        words += [f"budget {of.budget}"] if of.budget is not None else []
    return f"{', '.join(words)}: {record.error}"


def _tasks(grid: Grid, create: Callable[..., Task] | None) -> list[tuple[int, Task]]:
    """Every task with every seed."""
    from analysis.evaluation.tasks import base as task

    make = create or task.create
    return [(seed, _with_seed(make, spec, seed)) for spec in grid.tasks for seed in grid.seeds]


def _with_seed(create: Callable[..., Task], spec: TaskSpec, seed: int) -> Task:
    """The task with this seed, unless it has one of its own or draws nothing."""
    if "seed" in spec.options:
        return create(spec.name, **spec.options)
    try:
        return create(spec.name, **spec.options, seed=seed)
    except TreeKVError:
        return create(spec.name, **spec.options)  # where the fault is not the seed, this says what it is
