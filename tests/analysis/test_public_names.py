"""The public names of `analysis`: what is listed, what is loaded, and that no function shadows a module."""

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import analysis

ROOT = Path(analysis.__file__).parent


def test_only_public_names_are_shown():
    assert dir(analysis) == sorted(analysis.__all__, key=lambda name: (not name[0].isupper(), name))
    assert all(getattr(analysis, name) is not None for name in analysis.__all__)
    with pytest.raises(AttributeError, match="no attribute 'spectra'"):
        analysis.spectra  # noqa: B018


def test_type_checkers_see_the_same_names_as_python():
    source = (ROOT / "__init__.py").read_text(encoding="utf-8")
    (checked,) = (node for node in ast.parse(source).body if isinstance(node, ast.If))
    listed = {
        alias.name: node.module.removeprefix("analysis").lstrip(".")
        for node in checked.body
        for alias in node.names
        if node.module != "analysis"
    }
    assert listed == analysis._DEFINED_IN
    assert sorted([*listed, "evaluation", "paper", "plot"]) == sorted(analysis.__all__)


def test_no_function_shadows_a_module():
    modules = {module.name for module in pkgutil.iter_modules([str(ROOT)])}
    assert modules & set(analysis.__all__) == {"evaluation", "paper", "plot"}
    assert {name for name in modules if (ROOT / name).is_dir()} == set(analysis._SUBPACKAGES)
    for name in modules:
        assert importlib.import_module(f"analysis.{name}") is getattr(analysis, name, sys.modules[f"analysis.{name}"])


@pytest.mark.slow
def test_figures_and_compiled_kernels_are_loaded_when_they_are_needed():
    code = """
import sys, analysis
def loaded(): return sorted({"torch", "plotly", "numba"} & set(sys.modules))
assert "treekv" in sys.modules
print(loaded())
analysis.spectrum, analysis.capture, analysis.open; print(loaded())
analysis.plot.density; print(loaded())
analysis.simulate; print(loaded())
analysis.evaluation.Task
"""
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT.parent, capture_output=True, text=True, check=True, timeout=300
    )
    assert result.stdout.split("\n")[:4] == ["[]", "['torch']", "['plotly', 'torch']", "['numba', 'plotly', 'torch']"]
