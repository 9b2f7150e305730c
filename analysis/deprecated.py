"""Old names in `analysis`, accepted for one release with a DeprecationWarning that names the new ones."""

from __future__ import annotations

import functools
import importlib
import os
import warnings
from typing import Any

# Old name in `analysis`: the new one, and the module that defines it.
RENAMED = {
    "bias": ("recency_bias", "analysis.retention.bias"),
    "combine": ("merge_retention", "analysis.retention.record"),
    "growth": ("band_growth", "analysis.wavelets.growth"),
    "held": ("kept_mask", "analysis.retention.record"),
    "loss": ("output_loss", "analysis.retention.loss"),
    "memory": ("cache_bytes", "analysis.memory_size"),
    "memory_by_context": ("cache_bytes_by_context", "analysis.memory_size"),
    "open_capture": ("open", "analysis.result_files"),
    "open_loss": ("open", "analysis.result_files"),
    "open_retention": ("open", "analysis.result_files"),
    "open_spectrum": ("open", "analysis.result_files"),
    "open_trends": ("open", "analysis.result_files"),
    "pool": ("mean_spectrum", "analysis.wavelets.pooled_spectrum"),
    "save_loss": ("save", "analysis.result_files"),
    "save_retention": ("save", "analysis.result_files"),
    "save_spectrum": ("save", "analysis.result_files"),
    "save_trends": ("save", "analysis.result_files"),
    "tree": ("eviction_tree", "analysis.retention.tree"),
}


def find(name: str) -> Any:
    """The function that `analysis.name` used to be, with a warning; AttributeError for a name that never was one."""
    if name not in RENAMED:
        raise AttributeError(f"module 'analysis' has no attribute {name!r}")
    new, module = RENAMED[name]
    warnings.warn(f"analysis.{name} is deprecated; use analysis.{new}", DeprecationWarning, stacklevel=3)
    function = getattr(importlib.import_module(module), new)
    # What opened one kind of file still refuses the others.
    return functools.partial(_open_kind, name.removeprefix("open_")) if name.startswith("open_") else function


def _open_kind(kind: Any, path: str | os.PathLike[str], device: Any = "cpu") -> Any:
    from analysis.result_files import open as open_result

    return open_result(path, kind, device=device)
