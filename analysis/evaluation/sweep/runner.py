"""Run measurements one at a time, as each worker process does."""

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
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import torch
from transformers import PreTrainedModel

from analysis.evaluation.sweep.grid import ModelSpec, SettingsSpec, budget_in_tokens
from analysis.evaluation.sweep.records import Definition, Record, digest
from analysis.evaluation.tasks.base import Document, Task
from analysis.evaluation.tasks.prompt_cache import PromptCache
from analysis.progress import Progress
from treekv import load_model
from treekv.errors import TreeKVError

Load = Callable[[ModelSpec], tuple[Any, Any]]
_PACKAGES: Final = ("treekv", "torch", "transformers", "numpy")
_LONGEST_FACT: Final = 200  # characters


@dataclass(frozen=True)
class CellJob:
    """One document under one cell of the grid: a single measurement."""

    model: ModelSpec
    task: Task
    setting: SettingsSpec
    budget: int | str | None
    seed: int
    document: Document

    def definition(self) -> Definition:
        """The definition of its record. Raises TreeKVError if the settings do not fit the document."""
        config = self.config()
        if config is None:
            return self._definition(None)
        return self._definition({k: v for k, v in config.to_dict().items() if k not in ("format", "version", "trace")})

    def config(self) -> Any:
        """The settings for this document, None for the full cache."""
        return self.setting.config(budget_in_tokens(self.budget, self.document.data.get("tokens")), self.seed)

    def failed(self, error: str, seconds: float = 0.0, about: dict[str, Any] | None = None) -> Record:
        """The record of a measurement that failed."""
        try:
            of = self.definition()
        except TreeKVError:
            of = self._definition(self.setting.fields)
        return Record(of=of, facts=self.facts(), error=error, seconds=seconds, about=about or {})

    def facts(self) -> dict[str, Any]:
        """The scalar values of the document and its short strings, to group records by."""
        return {
            key: value
            for key, value in self.document.data.items()
            if isinstance(value, (bool, int, float)) or (isinstance(value, str) and len(value) <= _LONGEST_FACT)
        }

    def _definition(self, config: dict[str, Any] | None) -> Definition:
        return replace(
            task_definition(self.model, self.task, self.seed),
            name=self.setting.name,
            config=config,
            budget=self.budget,
            document=self.document.key,
            content=digest(self.document.data),
        )


def batches(jobs: Iterable[CellJob], size: int) -> list[list[CellJob]]:
    """Group jobs that can run in one pass: same cell and length, if the task supports it. The order is kept."""
    if size == 1:
        return [[job] for job in jobs]
    open_batches: dict[tuple[Any, ...], list[CellJob]] = {}
    made: list[list[CellJob]] = []
    for job in jobs:
        cell = (id(job.task), job.setting.identity, job.budget, job.seed, job.document.data.get("tokens"))
        batch = open_batches.get(cell)
        if batch is None or len(batch) == size or not hasattr(job.task, "run_many"):
            batch = open_batches[cell] = []
            made.append(batch)
        batch.append(job)
    return made


def task_definition(model: ModelSpec, task: Task, seed: int) -> Definition:
    """What the definitions of all documents of a task share; on its own it defines the failure of the whole task."""
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


def load(model: ModelSpec) -> tuple[Any, Any]:
    """The model and its tokenizer; device "auto" spreads the layers over the available GPUs and the CPU."""
    if model.device != "auto":
        return load_model(model.name, dtype=model.dtype, device=model.device)
    from accelerate import dispatch_model, infer_auto_device_map
    from accelerate.utils import get_balanced_memory

    network, tokenizer = load_model(model.name, dtype=model.dtype or ("auto" if torch.cuda.is_available() else None))
    unsplit = list(getattr(network, "_no_split_modules", None) or [])  # each layer stays on one device
    memory = get_balanced_memory(network, no_split_module_classes=unsplit)
    device_map = infer_auto_device_map(network, max_memory=memory, no_split_module_classes=unsplit)
    return dispatch_model(network, device_map), tokenizer


class Runner:
    """Measures with one model loaded at a time."""

    def __init__(self, load: Load = load, unfinished: Path | None = None) -> None:
        self._load, self._unfinished = load, unfinished
        self._loaded: tuple[ModelSpec, Any, Any] | None = None
        self._prompt_cache = PromptCache()

    def documents(self, model: ModelSpec, task: Task) -> list[Document]:
        """The documents of a task, in its order. Raises whatever loading the model and the task raise."""
        return list(task.documents(self._get(model)[1]))

    def measure(self, jobs: list[CellJob], progress: Progress | None = None) -> list[Record]:
        """Measure documents of one cell, several in one pass.

        Errors end up in the records; only an interruption by the user is raised. If a joint pass fails, the documents
        are measured one by one, so that only those that fail on their own are recorded as failures.
        """
        start = time.perf_counter()
        about = {"date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"), **environment()}
        made: list[Record] | None = None
        fault = ""
        try:
            made = self._measured(jobs, progress)
        except Exception as error:
            fault, about["traceback"] = one_line(error), traceback.format_exc()
            self._prompt_cache.clear()
        if made is None:  # outside the handler: the exception keeps the tensors of the pass alive
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            if len(jobs) > 1:
                return [record for job in jobs for record in self.measure([job], progress)]
            return [jobs[0].failed(fault, time.perf_counter() - start, about)]
        seconds = (time.perf_counter() - start) / len(jobs)
        config, network = jobs[0].config(), self._get(jobs[0].model)[0]
        if config is not None and isinstance(network, PreTrainedModel):
            about["positions"] = config.for_model(network.config).positions  # the model may decide
        return [replace(record, seconds=seconds, about=about) for record in made]

    def _measured(self, jobs: list[CellJob], progress: Progress | None) -> list[Record]:
        first = jobs[0]
        definitions = [job.definition() for job in jobs]
        network, tokenizer = self._get(first.model)
        # Derived from the key of the record, so that neither order nor interruption changes the random draws.
        number = int(definitions[0].key[:8], 16)
        random.seed(number)
        np.random.seed(number)
        torch.manual_seed(number)
        if hasattr(first.task, "prompt_cache"):
            cast(Any, first.task).prompt_cache = self._prompt_cache
        else:
            self._prompt_cache.clear()
        if hasattr(first.task, "unfinished"):
            cast(Any, first.task).unfinished = self._unfinished
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
            record.to_json()  # raises here, where a value that JSON cannot represent becomes a recorded failure
            records.append(record)
        return records

    def _get(self, model: ModelSpec) -> tuple[Any, Any]:
        if self._loaded is None or self._loaded[0] != model:
            self._loaded = None  # free the memory before the next model is loaded
            self._prompt_cache.clear()
            network, tokenizer = self._load(model)
            self._loaded = (model, network, tokenizer)
        return self._loaded[1:]


class OneProcess:
    """Measures in this process, one batch after another.

    With a folder `unfinished`, what was interrupted goes on there the next time, where the task can.
    """

    def __init__(self, load: Load = load, unfinished: Path | None = None) -> None:
        self._runner = Runner(load, unfinished)

    def documents(self, model: ModelSpec, task: Task) -> list[Document]:
        return self._runner.documents(model, task)

    def records(self, batches: Iterable[list[CellJob]], progress: Progress | None = None) -> Iterator[Record]:
        for jobs in batches:
            yield from self._runner.measure(jobs, progress)

    def close(self) -> None:
        self._runner = Runner()


def one_line(error: BaseException) -> str:
    """An error as one line; other errors than our own start with their type."""
    text = " ".join(str(error).split())
    if isinstance(error, TreeKVError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def environment() -> dict[str, Any]:
    """Versions and machine, stored with each record."""
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
        raise TreeKVError(f"the score {name!r} is {number}, which cannot be averaged")
    return number
