"""Candidates, simulated and judged: the settings that stand, and the numbers of everything that was tried."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr
from torch import nn

from analysis.captures.data import Capture
from analysis.retention.loss import loss
from analysis.retention.simulate import simulate
from treekv.config import TreeKVConfig
from treekv.errors import TreeKVError

LEAST_GAIN = 0.05  # relative; smaller differences of simulated errors said nothing about real runs
CLOSE = 0.01  # relative; errors this close count as equal


@dataclass
class Search:
    """The settings that stand, and everything that was tried."""

    run: Capture
    model: nn.Module | None = None  # errors are measured after its output projection
    rows: list[dict[str, Any]] = field(default_factory=list)
    sentences: list[str] = field(default_factory=list)
    best: TreeKVConfig = field(default_factory=TreeKVConfig)
    error: float = float("inf")
    by_layer: np.ndarray = field(default_factory=lambda: np.empty(0))

    def measure(
        self, configs: Mapping[str, TreeKVConfig], prompt: int = 0
    ) -> dict[str, tuple[float, float, np.ndarray]]:
        """Mean error, mean mass and the error of each layer, by name."""
        retention = simulate(self.run, configs, prompt=prompt)
        queries = None
        if prompt:
            queries = np.unique(np.linspace(prompt, self.run.tokens - 1, 64).astype(int)).tolist()
        lost = loss(self.run, retention, queries, model=self.model)
        return {
            name: (
                float(lost["error"].sel(policy=name).mean()),
                float(lost["mass"].sel(policy=name).mean()),
                lost["error"].sel(policy=name).mean("query").values,
            )
            for name in configs
        }

    def try_all(self, question: str, candidates: Mapping[str, TreeKVConfig]) -> str | None:
        """Simulate the candidates; the best one stands if it is enough better. Returns its name if it does."""
        if not candidates:
            return None
        measured = self.measure(candidates)
        name = min(measured, key=lambda name: measured[name][0])
        better = measured[name][0] < self.error * (1 - LEAST_GAIN)
        for one, (error, mass, _) in measured.items():
            self.note(question, one, candidates[one], error, mass, chosen=better and one == name)
        if not better:
            return None
        self.best = candidates[name]
        self.error, _, self.by_layer = measured[name]
        return name

    def note(self, question: str, setting: str, config: TreeKVConfig, error: float, mass: float, chosen: bool) -> None:
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
        columns = {name: ("candidate", np.array([row[name] for row in self.rows])) for name in self.rows[0]}
        return xr.Dataset(columns, coords={"candidate": np.arange(len(self.rows))})

    def changed(self, config: TreeKVConfig, **changes: Any) -> TreeKVConfig | None:
        """The changed settings, None where they are not possible in every layer."""
        if "cache_size" not in changes:
            changes = {"recent_size": config.recent_size, "block_size": config.block_size} | changes
        try:
            changed = config.replace(**changes)
            changed.per_layer(len(self.run.full_layers))
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
        """Try the candidates of a question and say in a sentence what came of it."""
        before, error = self.best, self.error
        name = self.try_all(question, candidates)
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
