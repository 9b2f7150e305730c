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
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from analysis.evaluation.records import Definition, Record, digest
from analysis.evaluation.sweep_grid import Model, Setting, cache_size
from treekv import load_model
from treekv.errors import TreeKVError

if TYPE_CHECKING:
    from analysis.evaluation.task import Document, Task

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
    """The model and its tokenizer."""
    return load_model(model.name, dtype=model.dtype, device=model.device)


class Runner:
    """Holds one model at a time and measures with it."""

    def __init__(self, load: Load = load) -> None:
        self._load = load
        self._held: tuple[Model, Any, Any] | None = None

    def documents(self, model: Model, task: Task) -> list[Document]:
        """The task's documents, in the task's order. Raises what loading and the task raise."""
        return list(task.documents(self._get(model)[1]))

    def measure(self, job: Job, progress: Report | None = None) -> Record:
        """Measure one document; whatever goes wrong is in the record. Only a stop by the user is raised."""
        start = time.perf_counter()
        about = {"date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"), **surroundings()}
        try:
            of = job.definition()
            network, tokenizer = self._get(job.model)
            # From the record's own key, so that neither order nor interruption changes what is drawn.
            number = int(of.key[:8], 16)
            random.seed(number)
            np.random.seed(number)
            torch.manual_seed(number)
            measured = job.task.run(network, tokenizer, job.config(), job.document, progress)
            record = Record(
                of=of,
                scores={name: _finite(name, value) for name, value in measured.scores.items()},
                detail=dict(measured.detail),
                facts=job.facts(),
                seconds=time.perf_counter() - start,
                about=about,
            )
            if not record.scores:
                raise TreeKVError("the task gave no score")
            record.to_json()  # what cannot be written is found here, where the record can still say so
            return record
        except Exception as error:
            about["traceback"] = traceback.format_exc()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            return job.failed(sentence(error), time.perf_counter() - start, about)

    def _get(self, model: Model) -> tuple[Any, Any]:
        if self._held is None or self._held[0] != model:
            self._held = None  # before the next one comes
            network, tokenizer = self._load(model)
            self._held = (model, network, tokenizer)
        return self._held[1:]


class OneProcess:
    """Measures in this process, one after the other."""

    def __init__(self, load: Load = load) -> None:
        self._runner = Runner(load)

    def documents(self, model: Model, task: Task) -> list[Document]:
        return self._runner.documents(model, task)

    def records(self, jobs: Iterable[Job], progress: Report | None = None) -> Iterator[Record]:
        for job in jobs:
            yield self._runner.measure(job, progress)

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
