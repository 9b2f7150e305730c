"""Measure what a cache costs in quality, speed and memory.

`tasks` are the measurements, `sweep` runs them over models, settings and budgets, `report` aggregates the records and
draws figures of them. These folders are imported when they are first used.
"""

import importlib
from typing import Any

from analysis.evaluation.stream import StreamResult, stream_perplexity
from analysis.evaluation.tasks.base import BatchTask, Document, Measurement, Task, create

_FOLDERS = ("report", "sweep", "tasks")

__all__ = [
    "BatchTask",
    "Document",
    "Measurement",
    "StreamResult",
    "Task",
    "create",
    "report",
    "stream_perplexity",
    "sweep",
    "tasks",
]


def __getattr__(name: str) -> Any:
    if name in _FOLDERS:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_FOLDERS])
