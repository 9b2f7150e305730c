"""The import graph of the packages, read from their source: also imports inside functions and for annotations."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path

Graph = dict[str, set[str]]  # module -> modules that it imports


def read_modules(root: Path, package: str) -> dict[str, str]:
    """Source text by dotted module name; a package's `__init__.py` has the package's name."""
    found = {}
    for path in sorted((root / package).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = path.read_text(encoding="utf-8")
    return found


def import_graph(sources: dict[str, str]) -> Graph:
    """Which of these modules import which; `from package import module` is an import of the module."""
    packages = {name.rpartition(".")[0] for name in sources}
    graph: Graph = {}
    for name, source in sources.items():
        targets: set[str] = set()
        parent = name if name in packages else name.rpartition(".")[0]
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                targets |= {_known(alias.name, sources) for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                base = node.module or ""
                if node.level:
                    levels = parent.split(".")
                    base = ".".join([*levels[: len(levels) - node.level + 1], *([base] if base else [])])
                targets |= {_known(f"{base}.{alias.name}", sources) for alias in node.names}
        graph[name] = targets - {"", name}
    return graph


def _known(name: str, sources: dict[str, str]) -> str:
    """The module that provides this dotted name, "" when none of `sources` does."""
    while name and name not in sources:
        name = name.rpartition(".")[0]
    return name


def part_of(module: str, package: str) -> str | None:
    """The direct child of `package` that a module belongs to, "__init__" for the package's own; None outside."""
    if module == package:
        return "__init__"
    return module[len(package) + 1 :].split(".")[0] if module.startswith(f"{package}.") else None


def upward_imports(graph: Graph, package: str, floors: Iterable[tuple[str, ...]]) -> set[tuple[str, str]]:
    """Imports between parts of `package` that do not lead to a lower floor: (importing module, imported module).

    Parts that no floor lists are on that of "*".
    """
    listed = {part: -number for number, floor in enumerate(floors) for part in floor}

    def height(part: str) -> int:
        return listed[part if part in listed else "*"]

    wrong = set()
    for module, targets in graph.items():
        part = part_of(module, package)
        for target in targets:
            other = part_of(target, package)
            if part is not None and other is not None and part != other and height(other) >= height(part):
                wrong.add((module, target))
    return wrong


def circles(graph: Graph) -> list[list[str]]:
    """Groups of modules that import each other, directly or round about, each sorted."""
    reached = {module: _reachable(graph, module) for module in graph}
    groups = {
        frozenset(other for other in reached[module] if module in reached[other])
        for module in graph
        if module in reached[module]
    }
    return sorted(sorted(group) for group in groups)


def _reachable(graph: Graph, start: str) -> set[str]:
    found: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            waiting += graph[module]
    return found
