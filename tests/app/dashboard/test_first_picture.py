"""The first picture needs the run's own files only, and is there before anything heavy is loaded."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

import analysis
from app.dashboard.actions import first_picture
from app.dashboard.pages import LIGHT, MAIN, WARM
from app.dashboard.server import serve
from app.dashboard.server.skeleton import ROOT, with_skeleton
from app.text.wording import titled
from tests.app.pages import opened
from treekv import policies

HEAVY = "torch", "transformers", "numba", "scipy", "pywt"
CHECKOUT = Path(__file__).resolve().parents[3]


def test_nothing_heavy_is_loaded_before_the_first_picture(small_run: Path) -> None:
    """In a fresh process: what the server, the frame of all pages and Start import at their tops, and the picture."""
    pages = [MAIN, MAIN.parent / "views" / "start.py"]
    imports = [line for page in pages for line in page.read_text(encoding="utf-8").splitlines() if _is_import(line)]
    code = f"""
import sys, streamlit as st
import app.cli, app.dashboard.server.serve
{chr(10).join(imports)}
import {LIGHT} as light
from app.runs.folder import open_run
st.page_link = lambda *_, **__: None  # there is no page to go to
light.draw(open_run({str(small_run)!r}))
light.draw(None)
print(*sorted({{name.split(".")[0] for name in sys.modules}} & {set(HEAVY)!r}))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""


def _is_import(line: str) -> bool:
    return re.match(r"(import|from) (?!__future__)", line) is not None


def test_a_visitor_sees_the_example_that_comes_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test = opened(None, monkeypatch, root=tmp_path)
    assert not test.exception
    drawn = " ".join(part.proto.body for part in test.get("html"))
    record = titled(analysis.open(first_picture.EXAMPLE, "retention"))
    assert analysis.plot.still_eviction_map(record, policy="TreeKV") in drawn
    assert "TreeKV: share of heads that still keep each token, after 512 tokens" in drawn
    assert policies.title("tree") == first_picture.TREE


def test_the_run_s_own_picture_is_drawn(small_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test: AppTest = opened(small_run, monkeypatch)
    drawn = " ".join(part.proto.body for part in test.get("html"))
    record = titled(analysis.open(small_run / "retention.nc", "retention"))
    assert analysis.plot.still_eviction_map(record, policy="TreeKV") in drawn


def test_the_heavy_libraries_are_imported_when_the_picture_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[object] = []
    monkeypatch.setattr(serve.importlib, "import_module", order.append)
    monkeypatch.setattr(serve.FIRST_PICTURE, "wait", order.append)
    monkeypatch.setattr(serve, "load_libraries", lambda: order.append("transformers"))
    serve.warm_up()
    assert order == [LIGHT, serve.PATIENCE, "transformers", WARM]


@pytest.mark.slow
def test_threads_that_load_the_libraries_at_once_all_get_them() -> None:
    # Without the lock those that come while the first imports get a module without these names.
    program = """
import threading
from app.dashboard.pages import load_libraries
missed = []
def work():
    load_libraries()
    try:
        from transformers import AutoModelForCausalLM
    except ImportError as error:
        missed.append(error)
threads = [threading.Timer(0.05 * number, work) for number in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert not missed, missed
"""
    subprocess.run([sys.executable, "-c", program], cwd=CHECKOUT, check=True, timeout=300)


def test_a_page_shows_an_outline_until_its_scripts_have_loaded() -> None:
    page = b"<html><body>" + ROOT + b"</body></html>"
    assert b'<div id="root"><div id="outline" role="status"' in with_skeleton(page)
    installed = Path(__import__("streamlit").__file__).parent / "static" / "index.html"
    assert installed.read_bytes().count(ROOT) == 1  # otherwise this Streamlit puts it elsewhere
