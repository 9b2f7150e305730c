"""The page Export, and its script and command run for real on the small real model."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import plotly.graph_objects as go
import pytest

import analysis
from app.dashboard.actions import compare, take_away
from app.dashboard.session.settings import encode
from app.export import figure_files, other_engines, snippets
from app.runs.folder import open_run
from tests.app.conftest import EVIL
from tests.app.pages import alternatives, page, said
from tests.needs import lacking
from treekv import TreeKVConfig, TreeKVError

ROOT = Path(__file__).resolve().parents[4]
SETTINGS = TreeKVConfig(cache_size=48, prefill="stream", block_size=8)


@pytest.fixture
def opened(small_run: Path, monkeypatch: pytest.MonkeyPatch):
    return lambda **query: page("take_away", small_run, monkeypatch, **{"settings": encode(SETTINGS), **query})


FILES = ["Download settings.json", "Download prompt.txt"]


def downloads(test) -> list[str]:
    assert not test.exception
    return [button.proto.label for button in test.get("download_button")]


# ---------------------------------------------------------------------- what is given, run for real


@pytest.fixture(scope="module")
def beside_settings(tmp_path_factory: pytest.TempPathFactory, smollm2) -> Path:
    folder = tmp_path_factory.mktemp("taken")
    (folder / "settings.json").write_text(take_away.settings_json(SETTINGS), encoding="utf-8")
    return folder


PROMPT = 'The sea\'s "edge" is $HOME to `birds`\\n; and ' + "the wind blows over the long grey stones. " * 8


def run_in(folder: Path, command: list[str]) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_script_and_command_run_and_give_the_same_text(beside_settings: Path, smollm2) -> None:
    script = beside_settings / "run.py"
    script.write_text(snippets.python_snippet("smollm2", PROMPT, tokens=12), encoding="utf-8")
    *text, figures = run_in(beside_settings, [sys.executable, script.name]).splitlines()
    words = shlex.split(snippets.command_line("smollm2", PROMPT, tokens=12))
    assert words[:3] == ["treekv", "generate", PROMPT]
    said_by_command = run_in(beside_settings, [sys.executable, "-m", "app.cli", *words[1:]])
    assert "\n".join(text).strip() == said_by_command.strip() != ""
    model, tokenizer = smollm2
    run = analysis.capture(model, tokenizer, PROMPT, queries=1)
    held = analysis.cache_bytes(run, SETTINGS, len(tokenizer(PROMPT)["input_ids"]) + 11, dtype="float32")
    assert figures == f"{held:,} bytes of keys and values, 48 tokens kept"


def test_the_settings_file_is_the_one_that_save_writes(tmp_path: Path) -> None:
    SETTINGS.save(tmp_path / "settings.json")
    assert (tmp_path / "settings.json").read_text(encoding="utf-8") == take_away.settings_json(SETTINGS)


def test_a_long_prompt_is_read_from_its_file() -> None:
    long = "word " * 100
    words = shlex.split(snippets.command_line("smollm2", long))
    assert words[2:4] == ["--prompt-file", "prompt.txt"] and long not in words
    assert "open('prompt.txt', encoding='utf-8').read()" in snippets.python_snippet("smollm2", long)
    compile(snippets.python_snippet("smollm2", long), "run.py", "exec")


def test_a_prompt_like_an_option_is_not_taken_for_one() -> None:
    words = shlex.split(snippets.command_line("owner/model", "--help me"))
    assert words[-2:] == ["--", "--help me"]
    compile(snippets.python_snippet("a'b\\", "--help\n'''me"), "run.py", "exec")


# ---------------------------------------------------------------------- the page


def test_the_page_shows_file_script_and_command_for_what_was_chosen(opened) -> None:
    test = opened()
    assert downloads(test) == [*FILES, "HTML", "One-page report", "Report of the run"]
    assert json.loads(test.code[0].value) == SETTINGS.to_dict()
    prompt = test.text_area(key="take-prompt").value
    assert len(re.findall(r"w\d+", prompt)) > SETTINGS.cache_size  # so that something is evicted
    assert "--prompt-file prompt.txt" in test.code[2].value and "open('prompt.txt'" in test.code[1].value
    test.text_input(key="take-model").set_value("owner/model").run()
    test.text_area(key="take-prompt").set_value(EVIL).run()
    assert test.code[1].value == snippets.python_snippet("owner/model", EVIL).strip()
    assert test.code[2].value == snippets.command_line("owner/model", EVIL, command=snippets.own_command())
    test.switch_page("views/wavelets.py").run()
    assert test.switch_page("views/take_away.py").run().text_area(key="take-prompt").value == EVIL  # not forgotten
    test.text_input(key="take-model").set_value("  ").run()
    assert "Enter a model and a prompt" in said(test)
    assert "In other engines" in [heading.value for heading in test.subheader]


def test_every_picture_is_drawn(opened) -> None:
    test = opened()
    names = test.selectbox(key="figure").options
    assert len(names) == 8
    seen = set()
    for name in names:
        test.selectbox(key="figure").select(name).run()
        seen |= set(alternatives(test))
    assert len(seen) == 8


def test_pictures_are_files_that_ask_for_nothing() -> None:
    figure = go.Figure(go.Scatter(x=[1, 2], y=[1, 2]))
    page = figure_files.html(figure)
    assert "<html>" in page
    assert 'src="http' not in page
    with pytest.raises(TreeKVError, match="'svg' or 'png', not 'pdf'"):
        figure_files.image(figure, "pdf")


@pytest.mark.browser
def test_svg_and_png_are_drawn_where_a_browser_is(opened) -> None:
    if not any(shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome")):
        lacking("no Chromium on the PATH, so SVG and PNG cannot be drawn; install the package chromium")
    test = opened()
    test.button(key="draw-images").click().run()
    assert not test.error
    assert downloads(test)[2:5] == ["HTML", "SVG", "PNG"]
    svg, png = (test.session_state["images"][1][kind] for kind in ("svg", "png"))
    assert svg.startswith(b"<svg")
    assert b"How" in svg or b"Token contributions" in svg
    assert png.startswith(b"\x89PNG")


def test_without_kaleido_the_page_says_what_to_do(opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figure_files.importlib.util, "find_spec", lambda name: None)
    test = opened()
    test.button(key="draw-images").click().run()
    assert "with the camera in its toolbar" in said(test)
    assert downloads(test)[2] == "HTML"


def test_the_report_holds_settings_numbers_and_commands(small_run: Path) -> None:
    page = take_away.report(open_run(small_run), SETTINGS)
    assert EVIL not in page
    assert "a text &lt;i&gt;of no words&lt;/i&gt;" in page
    assert "TreeKV 48" in page
    assert "StreamingLLM 48" in page
    assert page.count("<figure>") == 3
    assert "&#34;cache_size&#34;: 48" in page
    assert "treekv generate" in page
    assert 'src="http' not in page
    reading = "The whole text is read in blocks, or one token at a time by settings without blocks."
    assert f"{reading} Means over all 2 layers." in page
    assert "means over 64 queries from position 160 on" in page
    at_its_end = take_away.report(open_run(small_run), SETTINGS.replace(prefill="once"))
    assert "The first 160 tokens are read as a prompt, the rest one by one." in at_its_end


def test_the_layers_to_begin_with_are_the_middles_of_thirds() -> None:
    for layers, few in ((range(30), [5, 15, 25]), ([0, 1], [0, 1]), ([4], [4]), ([2, 5, 9], [2, 5, 9])):
        assert compare.default_layers(SimpleNamespace(layers=list(layers))) == few


def test_without_a_capture_what_needs_it_is_left_out(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(small_run, run)
    for name in ("capture.nc", "report.html"):
        (run / name).unlink()
    test = page("take_away", run, monkeypatch)
    assert downloads(test) == ["Download settings.json", "HTML"]
    assert len(test.selectbox(key="figure").options) == 2
    captions = " ".join(caption.value.replace("\\", "") for caption in test.main.get("caption"))
    assert "lacks capture.nc" in captions
    assert "made without a report" in captions
    (run / "spectrum.nc").unlink()
    test = page("take_away", run, monkeypatch)
    assert "neither a spectrum nor a capture" in " ".join(info.value for info in test.info)


def test_a_report_that_links_out_of_the_root_is_not_given(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    shutil.copytree(small_run, root / "run")
    for name in ("report.html", "spectrum.nc"):
        (root / "run" / name).unlink()
        (root / "run" / name).symlink_to(small_run / name)
    test = page("take_away", root / "run", monkeypatch)
    assert "Report of the run" not in downloads(test)
    captions = " ".join(caption.value.replace("\\", "") for caption in test.main.get("caption"))
    assert "report.html of the run 'run' is a link to a place outside" in captions
    assert not any("Wavelets" in name for name in test.selectbox(key="figure").options)


def test_settings_for_another_model_are_one_sentence(opened) -> None:
    wrong = TreeKVConfig(cache_size=48, budgets=(48, 48, 48), prefill="stream")
    test = opened(settings=encode(wrong))
    captions = " ".join(caption.value.replace("\\", "") for caption in test.main.get("caption"))
    assert "one number for each of the model's 2 compressed layers" in captions
    assert downloads(test) == [*FILES, "HTML", "Report of the run"]


def test_without_a_run_settings_can_be_taken_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    test = page("take_away", None, monkeypatch)
    assert downloads(test) == ["Download settings.json"]
    assert json.loads(test.code[0].value) == TreeKVConfig().to_dict()
    assert "need a run" in test.info[0].value


@pytest.mark.parametrize("policy", ["tree", "snapkv", "full"])
def test_other_engines_are_shown_for_what_was_chosen(opened, policy: str) -> None:
    config = TreeKVConfig(policy=policy, cache_size=48, window_size=8)
    test = opened(settings=encode(config))
    assert not test.exception
    assert [tab.label for tab in test.tabs] == [one.engine for one in other_engines.translations(config)]
    if policy == "full":
        assert "nothing to translate" in test.info[-1].value
