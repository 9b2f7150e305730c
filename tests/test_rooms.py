"""Which code may import which: app -> analysis -> treekv, and inside each package only from upper to lower floors."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

from tests.imports import circles, import_graph, part_of, read_modules, upward_imports

ROOT = Path(__file__).resolve().parent.parent
FORBIDDEN = {"treekv": {"analysis", "app", "tests"}, "analysis": {"app", "tests"}, "app": {"tests"}}
# Libraries for figures, result files and front ends; transformers itself may import some of them.
NOT_IN_TREEKV = {"plotly", "streamlit", "xarray", "scipy", "pywt", "h5netcdf", "h5py", "typer", "rich", "jinja2"}
NOT_IN_ANALYSIS = {"streamlit", "typer", "click", "rich", "jinja2", "playwright"}

# The folders and modules directly inside each package, from the top floor to the bottom. A part may import parts on
# lower floors only, so neither those above nor those beside it. Every part must be listed, or is one of "*".
FLOORS: dict[str, list[tuple[str, ...]]] = {
    "treekv": [
        ("hub",),
        ("__init__",),
        ("cache", "models", "resize"),
        ("config",),
        ("options",),
        ("budgets", "registration"),
        ("policies", "attention", "files", "shipped", "model_identity", "device"),
        ("errors", "transformers_releases"),
    ],
    "treekv.cache": [
        ("__init__",),
        ("cache",),
        ("saved",),
        ("state_shapes",),
        ("layer_group", "split_layer", "ledger_state", "plain_layers"),
        ("reduced_prompt", "pooled_step"),
        ("contents", "followed_call", "history"),
        ("attend", "hybrid_layer", "ledger"),
        ("block_snapshot", "latent_layer"),
        ("layer", "cache_file", "padding", "ranked_scores", "trace", "future"),
        ("slot_plan",),
        ("row_values", "slot_contents", "slots", "observation"),
    ],
    "treekv.attention": [
        ("rotary_check", "model_use"),
        ("supported", "model_rotary", "seen_distance"),
        ("interface", "rotary", "rotary_families"),
        ("softmax", "convention"),
        ("__init__",),
    ],
    "treekv.policies": [
        ("__init__",),
        ("registry", "pyramidkv", "tree_left"),
        ("*",),  # a policy that builds on no other needs no line here
        ("by_contents",),
        ("base", "prompt_choice"),
        ("contest",),
        ("variants", "sharing"),
        ("scores", "ranking", "settings", "pooling"),
    ],
    "analysis": [
        ("__init__",),
        ("deprecated", "keep_argument"),
        ("recommendation",),
        ("prediction",),
        ("evaluation",),
        ("plot",),
        ("paper",),
        ("retention", "wavelets", "memory_plan"),
        ("memory_size", "result_files"),
        ("captures",),
        ("netcdf", "binning", "named_settings", "units", "progress", "token_ids"),
    ],
    "analysis.captures": [
        ("many",),
        ("capture", "contributions"),
        ("data", "request"),
        ("backward_pass",),
        ("attention", "file_content", "forward_pass", "free_memory"),
        ("rotary_record",),
        ("__init__",),
    ],
    "analysis.wavelets": [
        ("__init__", "band_survival", "capture_spectrum", "far_context", "pooled_spectrum", "trends"),
        ("spectrum", "paper_protocol"),
        ("options", "last_token", "middle", "middle_statistics", "finite"),
        ("trend_statistics",),
        ("growth",),
        ("bands",),
        ("haar",),
    ],
    "analysis.retention": [
        ("compare", "forgotten"),
        ("agreement", "bias", "family", "loss", "regret", "simulate", "tree"),
        ("record", "simulated_cache", "damage"),
        ("kernels", "ledger_simulation"),
        ("captured_contents",),
        ("__init__",),
    ],
    "analysis.paper": [("__init__",), ("figure_2",), ("figure_1", "figure_3", "windows")],
    "analysis.prediction": [
        ("budget_curve",),
        ("replay", "measure", "needles"),
        ("masked_pass", "loss_table", "row_caches"),
        ("held_attention", "computing"),
        ("__init__",),
    ],
    "analysis.evaluation": [
        ("__init__",),
        ("report",),
        ("sweep",),
        ("tasks", "lm_harness"),
        ("stream",),
        ("unfinished",),
    ],
    "app": [
        ("cli",),
        ("dashboard", "demo"),
        ("engines",),
        ("generation", "report"),
        ("runs", "export"),
        ("text",),
        ("__init__",),
    ],
    "app.dashboard": [
        ("main", "views"),
        ("actions",),
        ("widgets",),
        ("session", "server"),
        ("pages",),
        ("__init__",),
    ],
}

# Imports that break the rule today. Each must go; one that no longer breaks it must be deleted here.
KNOWN_EXCEPTIONS: set[tuple[str, str]] = set()


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
    assert found, f"the package {room} is empty"
    return found


def test_the_finder_of_imports_finds_them() -> None:
    source = "import app.cli as x\ndef f():\n    from analysis.plot import spectrum\nfrom . import sibling\n"
    assert imported(source) == {"app", "analysis"}


@pytest.mark.parametrize("room", FORBIDDEN)
def test_no_package_imports_one_above_it(room: str) -> None:
    wrong = {
        str(path.relative_to(ROOT)): names
        for path in modules(room)
        if (names := imported(path.read_text(encoding="utf-8")) & FORBIDDEN[room])
    }
    assert wrong == {}


# ---------------------------------------------------------------------- floors inside a package


def test_the_import_graph_sees_every_kind_of_import() -> None:
    graph = import_graph(
        {
            "p": "",
            "p.low": "",
            "p.low.one": "X = 1\nfrom os import path\n",
            "p.low.two": "from . import one\nfrom ..high import thing\n",
            "p.high": "def f():\n    import p.low.one\n",
            "p.top": "if TYPE_CHECKING:\n    from p.low.one import X\nfrom p import low\n",
        }
    )
    assert graph == {
        "p": set(),
        "p.low": set(),
        "p.low.one": set(),
        "p.low.two": {"p.low.one", "p.high"},
        "p.high": {"p.low.one"},
        "p.top": {"p.low.one", "p.low"},
    }
    floors = [("top",), ("high",), ("low",), ("__init__",)]
    assert upward_imports(graph, "p", floors) == {("p.low.two", "p.high")}
    assert upward_imports(graph, "p", [("top", "high", "low", "__init__")]) == {
        ("p.low.two", "p.high"), ("p.high", "p.low.one"), ("p.top", "p.low.one"), ("p.top", "p.low"),
    }  # fmt: skip
    assert upward_imports(graph, "p.low", [("two",), ("one",), ("__init__",)]) == set()
    assert circles(graph) == []
    assert circles(graph | {"p.low.one": {"p.low.two"}}) == [["p.high", "p.low.one", "p.low.two"]]
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]


@functools.cache
def package_graph(package: str) -> dict[str, set[str]]:
    return import_graph(read_modules(ROOT, package))


@pytest.mark.parametrize("package", FLOORS)
def test_every_part_of_a_package_has_a_floor(package: str) -> None:
    names = read_modules(ROOT, package.replace(".", "/"))
    parts = {part for name in names if (part := part_of(name, package)) is not None}
    listed = [part for floor in FLOORS[package] for part in floor]
    assert sorted(set(listed) - {"*"}) == sorted(parts if "*" not in listed else parts & set(listed))


@pytest.mark.parametrize("package", FLOORS)
def test_imports_lead_to_a_lower_floor(package: str) -> None:
    wrong = upward_imports(package_graph(package.split(".")[0]), package, FLOORS[package])
    assert wrong - KNOWN_EXCEPTIONS == set()


@pytest.mark.parametrize("package", FORBIDDEN)
def test_no_modules_import_each_other(package: str) -> None:
    graph = package_graph(package)
    kept = {
        module: {target for target in targets if (module, target) not in KNOWN_EXCEPTIONS}
        for module, targets in graph.items()
    }
    assert circles(kept) == []


def test_files_are_short() -> None:
    most = {"treekv/cache/layer.py": 200}
    folders = ("treekv", "analysis", "app", "benchmarks", "tests")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    lines = {path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert {name: count for name, count in lines.items() if count > most.get(name, 400)} == {}


def test_every_known_exception_is_still_one() -> None:
    graphs = {package: package_graph(package) for package in FORBIDDEN}
    broken = set().union(
        *(upward_imports(graphs[package.split(".")[0]], package, floors) for package, floors in FLOORS.items())
    )
    for graph in graphs.values():
        for group in circles(graph):
            broken |= {(module, target) for module in group for target in graph[module] if target in group}
    assert KNOWN_EXCEPTIONS - broken == set()


# ---------------------------------------------------------------------- libraries


def test_treekv_imports_no_library_for_figures_or_results() -> None:
    for path in modules("treekv"):
        assert imported(path.read_text(encoding="utf-8")) & NOT_IN_TREEKV == set(), path


def test_analysis_imports_no_library_for_front_ends() -> None:
    for path in modules("analysis"):
        assert imported(path.read_text(encoding="utf-8")) & NOT_IN_ANALYSIS == set(), path


def loaded_after(code: str) -> set[str]:
    """Top-level modules loaded in a fresh interpreter that ran `code`."""
    report = f"{code}\nimport sys\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    result = subprocess.run(
        [sys.executable, "-c", report], cwd=ROOT, capture_output=True, text=True, check=True, timeout=300
    )
    return set(result.stdout.split())


@pytest.mark.slow
def test_importing_treekv_loads_neither_figures_nor_front_ends() -> None:
    front = {"plotly", "streamlit", "xarray", "pywt", "h5netcdf", "typer", "analysis", "app"}
    assert loaded_after("import treekv; treekv.TreeKVError") & {"torch", "transformers", *front} == set()
    # transformers knows the implementation however late it is imported.
    loaded = loaded_after("import treekv\nfrom transformers import AttentionInterface as a\nassert 'treekv' in a()\n"
                          "from treekv import *")  # fmt: skip
    assert "transformers" in loaded and loaded & front == set()


def test_the_commands_help_loads_no_model_library() -> None:
    loaded = loaded_after("import app.cli")
    assert "typer" in loaded
    assert loaded & {"torch", "transformers", "streamlit", "plotly", "xarray", "treekv", "analysis"} == set()
