"""The protocol of a task, and the registry of tasks by name."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, runtime_checkable

from analysis.progress import Progress
from treekv.config import TreeKVConfig
from treekv.errors import TreeKVError

# Modules are imported on request: some need packages that others do not.
_TASKS: Final = {
    "ppl": "perplexity:PerplexityTask",
    "needle": "needle:Needle",
    "passkey": "passkey:Passkey",
    "ruler": "ruler:Ruler",
    "longbench": "longbench:LongBench",
    "speed": "speed:Speed",
    "next_line": "next_line:NextLine",
    "turns": "turns:Turns",
    "continuation": "continuation:Continuation",
}


@dataclass(frozen=True)
class Document:
    """One unit of measurement, such as a stretch of text or a question.

    Attributes:
        key: unique within the task, the same in every run.
        data: JSON values; `tokens` is the number of tokens the model reads, small values (length, depth, ...) are
            facts to group by.
    """

    key: str
    data: dict[str, Any]


@dataclass(frozen=True)
class Measurement:
    """The result of measuring one document.

    Attributes:
        scores: finite numbers by name, the main one first. Scores of answers are in per cent.
        detail: JSON values. Tasks with answers set `answer`; perplexity sets `by_position` with lists `position` (the
            first of each cell), `loss` (mean, in nats) and `tokens`.
    """

    scores: dict[str, float]
    detail: dict[str, Any] = field(default_factory=dict)


class Task(Protocol):
    """A task with its options."""

    @property
    def name(self) -> str:
        """The name of the task in the registry."""
        ...

    @property
    def settings(self) -> dict[str, Any]:
        """What defines the task, as JSON values: lengths, seed, names of files (the documents have their content)."""
        ...

    def documents(self, tokenizer: Any) -> list[Document]:
        """All documents, the same in every run.

        Raises:
            TreeKVError: the task cannot be used at all. A single unusable document raises when it is run.
        """
        ...

    def run(
        self,
        model: Any,
        tokenizer: Any,
        config: TreeKVConfig | None,
        document: Document,
        progress: Progress | None = None,
    ) -> Measurement:
        """Measure one document under `config`; None is the full cache.

        Raises:
            TreeKVError: the document is unusable, or the settings do not fit the task.
        """
        ...


@runtime_checkable
class BatchTask(Protocol):
    """A task that can measure several documents in one pass, with the same scores as one by one."""

    def run_many(
        self,
        model: Any,
        tokenizer: Any,
        config: TreeKVConfig | None,
        documents: Sequence[Document],
        progress: Progress | None = None,
    ) -> list[Measurement]:
        """One measurement per document, in their order; all must have the same `data["tokens"]`."""
        ...


def names() -> tuple[str, ...]:
    """The names of all tasks."""
    return tuple(_TASKS)


def options(name: str) -> dict[str, Any]:
    """The options of a task with their defaults.

    Raises:
        TreeKVError: no such task.
    """
    defaults = {}
    for entry in dataclasses.fields(_find(name)):
        made = entry.default_factory
        defaults[entry.name] = entry.default if made is dataclasses.MISSING else made()
    return defaults


def create(name: str, **given: Any) -> Task:
    """Make a task by name.

    Raises:
        TreeKVError: no such task or option, or an invalid value.

    Example:
        >>> create("needle", lengths=[1024], keys=4).settings["keys"]
        4
    """
    kind = _find(name)
    known = [entry.name for entry in dataclasses.fields(kind)]
    for option in given:
        if option not in known:
            raise TreeKVError(f"task {name!r} has no option {option!r}; its options are {', '.join(known)}")
    task: Task = kind(**given)
    return task


def _find(name: str) -> Any:
    if name not in _TASKS:
        raise TreeKVError(f"there is no task {name!r}; tasks are {', '.join(_TASKS)}")
    module, _, kind = _TASKS[name].partition(":")
    return getattr(importlib.import_module(f"analysis.evaluation.tasks.{module}"), kind)
