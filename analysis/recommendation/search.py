"""Simulate candidate settings, keep the best, and log the numbers of every candidate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr
from torch import nn

from analysis.captures.data import Capture
from analysis.retention.loss import output_loss
from analysis.retention.simulate import simulate
from treekv.config import TreeKVConfig
from treekv.errors import TreeKVError

LEAST_GAIN = 0.05  # relative; smaller differences in simulated error did not predict real runs
CLOSE = 0.01  # relative; errors this close count as equal


@dataclass
class Search:
    """The best settings so far, with their error, and a log of every candidate.

    Attributes:
        captured: the text that candidates are simulated on.
        model: if given, errors are measured after its output projection.
        rows: the numbers of every candidate, in the order tried.
        sentences: one for each decision.
        best, error: the best settings so far and their mean relative output error.
        layer_errors: float [layers], the error of `best` by layer.
    """

    captured: Capture
    model: nn.Module | None = None
    rows: list[dict[str, Any]] = field(default_factory=list)
    sentences: list[str] = field(default_factory=list)
    best: TreeKVConfig = field(default_factory=TreeKVConfig)
    error: float = float("inf")
    layer_errors: np.ndarray = field(default_factory=lambda: np.empty(0))

    def measure(
        self, configs: Mapping[str, TreeKVConfig], prompt: int = 0
    ) -> dict[str, tuple[float, float, np.ndarray]]:
        """Simulate settings; mean error, mean attention mass and the error of each layer, by name."""
        retention = simulate(self.captured, configs, prompt=prompt)
        queries = None
        if prompt:
            queries = np.unique(np.linspace(prompt, self.captured.tokens - 1, 64).astype(int)).tolist()
        lost = output_loss(self.captured, retention, queries, model=self.model)
        return {
            name: (
                float(lost["error"].sel(policy=name).mean()),
                float(lost["mass"].sel(policy=name).mean()),
                lost["error"].sel(policy=name).mean("query").values,
            )
            for name in configs
        }

    def compare_candidates(self, question: str, candidates: Mapping[str, TreeKVConfig]) -> str | None:
        """Simulate the candidates and adopt the best one if it lowers the error by `LEAST_GAIN`.

        Returns the name of the adopted candidate, None if none is.
        """
        if not candidates:
            return None
        measured = self.measure(candidates)
        name = min(measured, key=lambda name: measured[name][0])
        better = measured[name][0] < self.error * (1 - LEAST_GAIN)
        for one, (error, mass, _) in measured.items():
            self.log(question, one, candidates[one], error, mass, chosen=better and one == name)
        if not better:
            return None
        self.best = candidates[name]
        self.error, _, self.layer_errors = measured[name]
        return name

    def log(self, question: str, setting: str, config: TreeKVConfig, error: float, mass: float, chosen: bool) -> None:
        """Add the numbers of a candidate to the log."""
        self.rows.append(
            {
                "question": question,
                "setting": setting,
                "cache_size": config.cache_size,
                "error": error,
                "mass": mass,
                "chosen": chosen,
            }
        )

    def table(self) -> xr.Dataset:
        """The log as a Dataset over `candidate`, one variable for each number."""
        columns = {name: ("candidate", np.array([row[name] for row in self.rows])) for name in self.rows[0]}
        return xr.Dataset(columns, coords={"candidate": np.arange(len(self.rows))})

    def variant(self, config: TreeKVConfig, **changes: Any) -> TreeKVConfig | None:
        """The settings with some fields changed, None if they are not valid in every layer."""
        if "cache_size" not in changes:
            changes = {"recent_size": config.recent_size, "block_size": config.block_size} | changes
        try:
            changed = config.replace(**changes)
            changed.per_head(len(self.captured.full_layers), self.captured.kv_heads)
            return changed
        except TreeKVError:
            return None

    def decide(
        self,
        question: str,
        title: str,
        candidates: dict[str, TreeKVConfig],
        words: Callable[[TreeKVConfig], str],
    ) -> None:
        """Compare the candidates of a question and add a sentence with the outcome."""
        before, error = self.best, self.error
        name = self.compare_candidates(question, candidates)
        rows = [row for row in self.rows if row["question"] == question]
        tried = ", ".join(f"{row['setting']} {row['error']:.4f}" for row in rows)
        if name is None:
            self.sentences.append(
                f"{title}: {words(before)}, as by default; nothing tried lowers the error of {error:.4f} by "
                f"{LEAST_GAIN:.0%} ({tried})."
            )
        else:
            self.sentences.append(
                f"{title}: {words(self.best)}; the error falls from {error:.4f} to {self.error:.4f} ({tried})."
            )
