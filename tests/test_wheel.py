"""What a user gets by `pip install`: the wheel, in an environment that does not see this checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import tiny
from tests.app.browsing import Watched, chromium, drawn, served
from tests.app.conftest import words_tokenizer

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("treekv", "analysis", "app")
NO_CODE = shutil.ignore_patterns("__pycache__")

pytestmark = pytest.mark.slow


def ran(folder: Path, *command: str | Path) -> str:
    """What a command prints that runs in `folder`, without this checkout and without the network."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkout as it is packed, beside folders that are a user's own: setuptools leaves files where it builds."""
    folder = tmp_path_factory.mktemp("source")
    for name in (*PACKAGES, "tests", "benchmarks"):
        shutil.copytree(ROOT / name, folder / name, ignore=NO_CODE)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for name in ("analysis_old", "apples", "treekv_runs"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").touch()
    return folder


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    ran(source, sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", folder, source)
    (built,) = folder.iterdir()
    return built


def test_the_wheel_holds_the_three_packages_and_nothing_else(wheel: Path, source: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = [path for package in PACKAGES for path in (source / package).rglob("*") if path.is_file()]
    assert names == {path.relative_to(source).as_posix() for path in files}
    assert {f"{package}/py.typed" for package in PACKAGES} < names
    assert any(name.endswith(".html") for name in names)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of a new environment with the wheel, which finds all else in the environment of the tests.

    That goes by a .pth file. Python does not read those that lie in the folder it leads to, and one of these leads to
    this checkout where it was installed for editing.
    """
    folder = tmp_path_factory.mktemp("environment")
    ran(folder, sys.executable, "-m", "venv", "--without-pip", folder)
    binaries = folder / ("Scripts" if os.name == "nt" else "bin")
    python = binaries / "python"
    ran(folder, sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", wheel)
    site = ran(folder, python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    ours = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (Path(site) / "dependencies.pth").write_text("\n".join(ours), encoding="utf-8")
    return binaries


def test_the_packages_are_those_of_the_wheel(installed: Path, tmp_path: Path) -> None:
    shown = ran(tmp_path, installed / "python", "-c", "import analysis, app, treekv as t; print(analysis, app, t)")
    assert shown.count(str(installed.parent)) == 3
    assert str(ROOT) not in shown


@pytest.mark.parametrize("command", [[], ["demo"], ["dashboard"]])
def test_help(installed: Path, tmp_path: Path, command: list[str]) -> None:
    shown = " ".join(ran(tmp_path, installed / "treekv", *command, "--help").split())
    assert " ".join(["Usage: treekv", *command, "[OPTIONS]"]) in shown


@pytest.fixture(scope="module")
def run(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the installed `treekv demo` makes of a tiny model."""
    folder = tmp_path_factory.mktemp("user")
    tiny.llama().save_pretrained(folder / "model")
    words_tokenizer().save_pretrained(folder / "model")
    (folder / "words.txt").write_text(" ".join(f"w{number % 90 + 2}" for number in range(300)))
    options = ["--model", "model", "--text", "words.txt", "--tokens", "256", "--output", "run"]
    assert "Report:" in ran(folder, installed / "treekv", "demo", *options)
    return folder / "run"


def test_the_demo_writes_its_run(run: Path) -> None:
    assert "Plotly.newPlot" in (run / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def address(installed: Path, run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(run, tmp_path_factory.mktemp("log"), program=installed / "treekv") as address:
        yield address


def test_the_dashboard_serves(address: str) -> None:
    with urllib.request.urlopen(address, timeout=60) as answer:
        assert (answer.status, answer.headers.get_content_type()) == (200, "text/html")


@pytest.mark.browser
def test_the_dashboard_draws(address: str) -> None:
    with chromium() as browser:
        watched = Watched(browser)
        watched.page.goto(f"{address}/wavelets")
        drawn(watched.page, 7)
        assert watched.complaints == []
        watched.context.close()
