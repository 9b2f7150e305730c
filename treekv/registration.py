"""Registers the attention implementation as soon as transformers' models are there to use it.

transformers and torch take seconds to import, and `import treekv` must not: a page or a mistyped command needs neither.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Final

MODELS: Final = "transformers.modeling_utils"  # where transformers looks implementations up
INTERFACE: Final = "treekv.attention.interface"  # importing it registers ours


def when_transformers_is_imported() -> None:
    """Register now if transformers' models are imported already, else right after they will be."""
    if MODELS in sys.modules:
        importlib.import_module(INTERFACE)
    elif not any(isinstance(finder, _Watch) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watch())


class _Watch(MetaPathFinder):
    """Finds nothing itself; adds one step to the loading of transformers' models, once."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != MODELS:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        load = spec.loader.exec_module

        def load_and_register(module: ModuleType) -> None:
            load(module)
            importlib.import_module(INTERFACE)

        spec.loader.exec_module = load_and_register  # type: ignore[method-assign]
        return spec
