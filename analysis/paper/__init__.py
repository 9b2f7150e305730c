"""The figures of the paper, one module each. Each name is imported when it is first used.

He et al., "TreeKV: Smooth Key-Value Cache Compression with Tree Structures", IJCAI 2025 (arXiv 2501.04987).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.paper.figure_1 import figure1
    from analysis.paper.figure_2 import figure2
    from analysis.paper.figure_3 import Step, figure3

# The module that defines each public name; the imports above are the same for type checkers.
_DEFINED_IN = {
    "Step": "figure_3",
    "figure1": "figure_1",
    "figure2": "figure_2",
    "figure3": "figure_3",
}

__all__ = ["Step", "figure1", "figure2", "figure3"]


def __getattr__(name: str) -> Any:
    if name not in _DEFINED_IN:
        raise AttributeError(f"module 'analysis.paper' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"analysis.paper.{_DEFINED_IN[name]}"), name)
    globals()[name] = value  # the next access does not come here
    return value


def __dir__() -> list[str]:
    return __all__
