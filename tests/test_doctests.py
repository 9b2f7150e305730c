"""The examples in docstrings do what they show."""

from __future__ import annotations

import ast
import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("treekv", "analysis", "app")
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def examples_of(source: str) -> str:
    """All that the docstrings of a module show after a prompt. Nothing is imported to find it."""
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, DOCUMENTED)]
    docstrings = [ast.get_docstring(node) or "" for node in nodes]
    return "".join(example.source for text in docstrings for example in doctest.DocTestParser().get_examples(text))


def with_examples() -> list:
    """The names of the modules that show examples; those that load a model by its alias are marked."""
    found = []
    for path in sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py")):
        if examples := examples_of(path.read_text(encoding="utf-8")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            found.append(pytest.param(name, marks=[pytest.mark.real_model] if 'load_model("' in examples else []))
    return found


def test_the_finder_of_examples_finds_them_and_nothing_else() -> None:
    assert examples_of('def f():\n    """One.\n\n    >>> f()\n    """') == "f()\n"
    assert examples_of('PROMPT = ">>> "') == ""


@pytest.mark.parametrize("name", with_examples())
def test_examples(name: str) -> None:
    failed, attempted = doctest.testmod(importlib.import_module(name))[:2]
    assert attempted > 0
    assert failed == 0, "pytest shows above what was expected and what came"
