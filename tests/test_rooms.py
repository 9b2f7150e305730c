"""Who may look at whom: app -> analysis -> treekv, never the other way."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FORBIDDEN = {"treekv": {"analysis", "app", "tests"}, "analysis": {"app", "tests"}, "app": {"tests"}}
# What belongs to pictures, files of results or the fronts; transformers itself may bring some of it.
NOT_IN_TREEKV = {"plotly", "streamlit", "xarray", "scipy", "pywt", "h5netcdf", "h5py", "typer", "rich", "jinja2"}
NOT_IN_ANALYSIS = {"streamlit", "typer", "click", "rich", "jinja2", "playwright"}


def imported(source: str) -> set[str]:
    """Top-level names of all packages that a module imports, at the top or inside functions."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


def modules(room: str) -> list[Path]:
    found = sorted((ROOT / room).rglob("*.py"))
    assert found, f"the room {room} is empty"
    return found


def test_the_finder_of_imports_finds_them() -> None:
    source = "import app.cli as x\ndef f():\n    from analysis.plot import spectrum\nfrom . import sibling\n"
    assert imported(source) == {"app", "analysis"}


@pytest.mark.parametrize("room", FORBIDDEN)
def test_no_room_looks_up(room: str) -> None:
    wrong = {
        str(path.relative_to(ROOT)): looked
        for path in modules(room)
        if (looked := imported(path.read_text(encoding="utf-8")) & FORBIDDEN[room])
    }
    assert wrong == {}


def test_the_compressor_needs_no_library_of_pictures_or_results() -> None:
    for path in modules("treekv"):
        assert imported(path.read_text(encoding="utf-8")) & NOT_IN_TREEKV == set(), path


def test_analysis_needs_no_library_of_the_fronts() -> None:
    for path in modules("analysis"):
        assert imported(path.read_text(encoding="utf-8")) & NOT_IN_ANALYSIS == set(), path


def loaded_after(code: str) -> set[str]:
    """Top-level modules loaded in a fresh interpreter that ran `code`."""
    report = f"{code}\nimport sys\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    result = subprocess.run(
        [sys.executable, "-c", report], cwd=ROOT, capture_output=True, text=True, check=True, timeout=300
    )
    return set(result.stdout.split())


def test_importing_treekv_loads_neither_pictures_nor_fronts() -> None:
    loaded = loaded_after("import treekv")
    assert "transformers" in loaded
    assert loaded & {"plotly", "streamlit", "xarray", "pywt", "h5netcdf", "typer", "analysis", "app"} == set()


def test_the_commands_help_loads_no_model_library() -> None:
    loaded = loaded_after("import app.cli")
    assert "typer" in loaded
    assert loaded & {"torch", "transformers", "streamlit", "plotly", "xarray", "treekv", "analysis"} == set()
