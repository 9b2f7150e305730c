"""One measurement at a time: what a worker does, in this process or on another machine."""

from __future__ import annotations

import datetime
import importlib.metadata
import math
import os
import platform
import random
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import torch

from analysis.evaluation.sweep.grid import Model, Setting, cache_size
from analysis.evaluation.sweep.records import Definition, Record, digest
from analysis.evaluation.tasks.prompt_cache import Prompts
from treekv import load_model
from treekv.errors import TreeKVError

if TYPE_CHECKING:
    from analysis.evaluation.tasks.base import Document, Task

Load = Callable[[Model], tuple[Any, Any]]
Report = Callable[[int, int], None]
_PACKAGES: Final = ("treekv", "torch", "transformers", "numpy")
_LONGEST_FACT: Final = 200  # characters


@dataclass(frozen=True)
class Job:
    """One document under one cell of the grid."""

    model: Model
    task: Task
    setting: Setting
    budget: int | str | None
    seed: int
    document: Document

    def definition(self) -> Definition:
        """Raises TreeKVError when the settings do not fit the document."""
        config = self.config()
        if config is None:
            return self._outline(None)
        return self._outline({k: v for k, v in config.to_dict().items() if k not in ("format", "version", "trace")})

    def config(self) -> Any:
        """The settings for this document, None for the full cache."""
        return self.setting.config(cache_size(self.budget, self.document.data.get("tokens")), self.seed)

    def failed(self, error: str, seconds: float = 0.0, about: dict[str, Any] | None = None) -> Record:
        """The record that says why there is no measurement."""
        try:
            of = self.definition()
        except TreeKVError:
            of = self._outline(self.setting.fields)
        return Record(of=of, facts=self.facts(), error=error, seconds=seconds, about=about or {})

    def facts(self) -> dict[str, Any]:
        """The document's small values."""
        return {
            key: value
            for key, value in self.document.data.items()
            if isinstance(value, (bool, int, float)) or (isinstance(value, str) and len(value) <= _LONGEST_FACT)
        }

    def _outline(self, config: dict[str, Any] | None) -> Definition:
        return replace(
            outline(self.model, self.task, self.seed),
            name=self.setting.name,
            config=config,
            budget=self.budget,
            document=self.document.key,
            content=digest(self.document.data),
        )


def batches(jobs: Iterable[Job], size: int) -> list[list[Job]]:
    """Jobs that can go through together: of one cell and one length, where the task can do that; in their order."""
    if size == 1:
        return [[job] for job in jobs]
    open_batches: dict[tuple[Any, ...], list[Job]] = {}
    made: list[list[Job]] = []
    for job in jobs:
        cell = (id(job.task), job.setting.name, job.budget, job.seed, job.document.data.get("tokens"))
        batch = open_batches.get(cell)
        if batch is None or len(batch) == size or not hasattr(job.task, "run_many"):
            batch = open_batches[cell] = []
            made.append(batch)
        batch.append(job)
    return made


def outline(model: Model, task: Task, seed: int) -> Definition:
    """The part of a definition that all documents of a task share; of a record that says why it has none."""
    return Definition(
        model=model.name,
        dtype=model.dtype,
        device=model.device,
        task=task.name,
        options=task.settings,
        name=None,
        config=None,
        budget=None,
        seed=seed,
        document=None,
        content=None,
    )


def load(model: Model) -> tuple[Any, Any]:
    """The model and its tokenizer; device "auto" spreads the layers over the GPUs that there are, and the processor."""
    if model.device != "auto":
        return load_model(model.name, dtype=model.dtype, device=model.device)
    from accelerate import dispatch_model, infer_auto_device_map
    from accelerate.utils import get_balanced_memory

    network, tokenizer = load_model(model.name, dtype=model.dtype or ("auto" if torch.cuda.is_available() else None))
    whole = list(getattr(network, "_no_split_modules", None) or [])  # layers stay on one device
    memory = get_balanced_memory(network, no_split_module_classes=whole)
    places = infer_auto_device_map(network, max_memory=memory, no_split_module_classes=whole)
    return dispatch_model(network, places), tokenizer


class Runner:
    """Holds one model at a time and measures with it."""

    def __init__(self, load: Load = load) -> None:
        self._load = load
        self._held: tuple[Model, Any, Any] | None = None
        self._prompts = Prompts()

    def documents(self, model: Model, task: Task) -> list[Document]:
        """The task's documents, in the task's order. Raises what loading and the task raise."""
        return list(task.documents(self._get(model)[1]))

    def measure(self, jobs: list[Job], progress: Report | None = None) -> list[Record]:
        """Measure documents of one cell, together where there are several.

        Whatever goes wrong is in the records; only a stop by the user is raised. Documents that cannot go through
        together are measured one by one, so that each has the fault that is its own.
        """
        start = time.perf_counter()
        about = {"date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"), **surroundings()}
        made: list[Record] | None = None
        fault = ""
        try:
            made = self._measured(jobs, progress)
        except Exception as error:
            fault, about["traceback"] = sentence(error), traceback.format_exc()
            self._prompts.clear()
        if made is None:  # outside of the handler, whose error holds on to the tensors of the pass
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            if len(jobs) > 1:
                return [record for job in jobs for record in self.measure([job], progress)]
            return [jobs[0].failed(fault, time.perf_counter() - start, about)]
        seconds = (time.perf_counter() - start) / len(jobs)
        return [replace(record, seconds=seconds, about=about) for record in made]

    def _measured(self, jobs: list[Job], progress: Report | None) -> list[Record]:
        first = jobs[0]
        definitions = [job.definition() for job in jobs]
        network, tokenizer = self._get(first.model)
        # From the record's own key, so that neither order nor interruption changes what is drawn.
        number = int(definitions[0].key[:8], 16)
        random.seed(number)
        np.random.seed(number)
        torch.manual_seed(number)
        if hasattr(first.task, "shared_prompts"):
            cast(Any, first.task).shared_prompts = self._prompts
        else:
            self._prompts.clear()
        if len(jobs) == 1:
            found = [first.task.run(network, tokenizer, first.config(), first.document, progress)]
        else:
            task: Any = first.task
            documents = [job.document for job in jobs]
            found = task.run_many(network, tokenizer, first.config(), documents, progress)
        records = []
        for job, of, measured in zip(jobs, definitions, found, strict=True):
            scores = {name: _finite(name, value) for name, value in measured.scores.items()}
            if not scores:
                raise TreeKVError("the task gave no score")
            record = Record(of=of, scores=scores, detail=dict(measured.detail), facts=job.facts())
            record.to_json()  # what cannot be written is found here, where the record can still say so
            records.append(record)
        return records

    def _get(self, model: Model) -> tuple[Any, Any]:
        if self._held is None or self._held[0] != model:
            self._held = None  # before the next one comes
            self._prompts.clear()
            network, tokenizer = self._load(model)
            self._held = (model, network, tokenizer)
        return self._held[1:]


class OneProcess:
    """Measures in this process, one batch after the other."""

    def __init__(self, load: Load = load) -> None:
        self._runner = Runner(load)

    def documents(self, model: Model, task: Task) -> list[Document]:
        return self._runner.documents(model, task)

    def records(self, batches: Iterable[list[Job]], progress: Report | None = None) -> Iterator[Record]:
        for jobs in batches:
            yield from self._runner.measure(jobs, progress)

    def close(self) -> None:
        self._runner = Runner()


def sentence(error: BaseException) -> str:
    """An error in one line; our own as it stands, others with their kind."""
    text = " ".join(str(error).split())
    if isinstance(error, TreeKVError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def surroundings() -> dict[str, Any]:
    """Versions and machine, for the record."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    machine = {
        "host": platform.node(),
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    if torch.cuda.is_available():
        machine["gpu"] = torch.cuda.get_device_name()
        machine["gpus"] = torch.cuda.device_count()
    return {"versions": versions, "machine": machine, "process": os.getpid()}


def _finite(name: str, value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise TreeKVError(f"the score {name!r} is {number}, which is no number to average")
    return number
