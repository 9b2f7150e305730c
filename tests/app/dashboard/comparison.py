"""The page Compare in tests: its settings, its controls, and the simulation to expect."""

from __future__ import annotations

from pathlib import Path

import analysis
from app.dashboard.session.settings import COMPARED
from treekv import TreeKVConfig

TWO = "tree,cache_size=64,prefill=stream;streaming,cache_size=64,prefill=stream"


def configs(test) -> list[TreeKVConfig]:
    return test.session_state[COMPARED]


def control(kind, name: str):
    """The control of a field as it is now: one that others have changed is a new one."""
    return next(one for one in kind if one.key.startswith(f"edit-{name}-"))


def simulated(run: Path, names: dict[str, TreeKVConfig], layers=(0, 1), prompt: int = 0):
    return analysis.simulate(analysis.open(run / "capture.nc"), names, layers=list(layers), prompt=prompt)
