"""No function has the name of the module that holds it: `import package.module` then gives the module."""

from __future__ import annotations

import importlib
import pkgutil
import types

import pytest

# Streamlit runs these as scripts.
SCRIPTS = ("app.dashboard.main", "app.dashboard.views", "app.cli.__main__")


@pytest.mark.parametrize("package", ["treekv", "analysis", "app"])
def test_no_function_shadows_a_module(package: str) -> None:
    shadowed = []
    root = importlib.import_module(package)
    for found in pkgutil.walk_packages(root.__path__, f"{package}."):
        if found.name.startswith(SCRIPTS):
            continue
        importlib.import_module(found.name)
        parent, _, name = found.name.rpartition(".")
        if not isinstance(getattr(importlib.import_module(parent), name), types.ModuleType):
            shadowed.append(found.name)
    assert shadowed == []
