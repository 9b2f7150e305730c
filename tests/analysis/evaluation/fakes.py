"""A task and a model that need neither time nor memory, for what is about sweeps and not about scores."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from pathlib import Path
from typing import Any, ClassVar

from analysis.evaluation.tasks.base import Document, Measurement
from treekv import TreeKVError


@dataclasses.dataclass(frozen=True)
class FakeTask:
    """Scores that follow from the document, the settings and the random state, so that a table is known."""

    documents_wanted: int = 4
    seed: int | None = None
    pause: float = 0.0
    faults: dict[str, str] = dataclasses.field(default_factory=dict)  # document key -> what happens
    once: str | None = None  # a file: "kill once" does so until it exists
    tokens: int | None = None
    name: str = "fake"

    @property
    def settings(self) -> dict[str, Any]:
        return {"documents": self.documents_wanted, "seed": self.seed}

    def documents(self, tokenizer: Any) -> list[Document]:
        assert tokenizer == "tokenizer"
        if self.faults.get("all") == "columns":
            raise TreeKVError("the file 'x.jsonl' lacks the column 'input'")
        return [
            Document(
                f"d{i}",
                {"tokens": self.tokens or 160 * (i + 1), "seed": self.seed, "length": 100 * (i % 2 + 1), "depth": i},
            )
            for i in range(self.documents_wanted)
        ]

    def run(self, model: Any, tokenizer: Any, config: Any, document: Document, progress: Any = None) -> Measurement:
        assert model == "model"
        import torch

        time.sleep(self.pause)
        fault = self.faults.get(document.key)
        if fault == "raise":
            raise RuntimeError("no such\nkernel")
        if fault == "nan":
            return Measurement({"score": float("nan")}, {})
        if fault == "half a character":
            return Measurement({"score": 1.0}, {"answer": "\ud83d"})
        if fault == "set":
            return Measurement({"score": 1.0}, {"bad": {1, 2}})
        if fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "kill once" and not Path(str(self.once)).exists():
            Path(str(self.once)).write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        if progress is not None:
            progress(1, 1)
        size = 0 if config is None else config.cache_size
        number = int(document.key[1:])
        chance = 0.0 if isinstance(self, TogetherTask) else float(torch.rand(1))
        score = number - size / 1000 + chance / 10
        return Measurement({"score": score, "cache_bytes": float(size)}, {"size": size})


def create(name: str, **options: Any) -> FakeTask:
    if name != "fake":
        raise TreeKVError(f"there is no task {name!r}")
    known = {field.name for field in dataclasses.fields(FakeTask)} - {"name"}
    for option in options:
        if option not in known:
            raise TreeKVError(f"unknown option {option!r} of task 'fake'; known are {', '.join(sorted(known))}")
    return FakeTask(**options)


def load(model: Any) -> tuple[str, str]:
    if model.name == "broken":
        raise TreeKVError("there is no model 'broken'")
    return "model", "tokenizer"


class TogetherTask(FakeTask):
    """One that can also measure several documents at once, unless one of them is at fault."""

    together: ClassVar[list[list[str]]] = []

    def run_many(
        self, model: Any, tokenizer: Any, config: Any, documents: Any, progress: Any = None
    ) -> list[Measurement]:
        self.together.append([document.key for document in documents])
        return [self.run(model, tokenizer, config, document, progress) for document in documents]
