"""The command: what it prints where, and one sentence with exit status 2 for whatever is wrong."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import analysis
from app import demo as chain
from app.cli import app
from app.export import snippets
from app.runs import folder as run_folder
from app.text.wording import claim_words
from tests.app.cli.commands import invoke
from treekv import TreeKVConfig

pytestmark = pytest.mark.usefixtures("here")


ROOT = Path(__file__).resolve().parents[3]
COMMANDS = ("demo", "generate", "capture", "dashboard")


@pytest.fixture
def words(here: Path) -> Path:
    """A text of 400 words that the tiny model's tokenizer knows."""
    file = here / "words.txt"
    file.write_text(" ".join(f"w{number % 90 + 2}" for number in range(400)))
    return file


# ---------------------------------------------------------------------- help


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_a_real_example(command: str) -> None:
    result = invoke(command, "--help")
    assert result.exit_code == 0
    assert f"Example: treekv {command} " in " ".join(result.stdout.split())


def test_help_lists_the_commands() -> None:
    result = invoke("--help")
    assert result.exit_code == 0
    assert all(f" {command} " in result.stdout for command in COMMANDS)


# ---------------------------------------------------------------------- what goes right


def test_capture_writes_a_file_that_can_be_opened(words: Path, tiny_model: Path) -> None:
    result = invoke("capture", words, "--model", tiny_model, "--tokens", 100, "--queries", 8, "--json")
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    run = analysis.open("capture.nc")
    assert printed["tokens"] == run.tokens == 100
    assert printed["queries"] == 8
    assert run.query_positions == list(range(92, 100))
    assert printed["layers"] == run.layers == [0, 1]
    assert (printed["query_heads"], printed["kv_heads"]) == (4, 2)
    assert printed["bytes"] == Path("capture.nc").stat().st_size
    assert sorted(os.listdir()) == ["capture.nc", "words.txt"]


def test_capture_replaces_a_file_when_told_to(words: Path, tiny_model: Path) -> None:
    Path("capture.nc").write_text("old")
    result = invoke("capture", words, "--model", tiny_model, "--tokens", 100, "--force")
    assert result.exit_code == 0, result.output
    assert "100 tokens, 2 layers, 4 query heads, 2 KV heads" in result.stdout
    assert analysis.open("capture.nc").tokens == 100


def test_generate_continues_as_the_cache_says(words: Path, tiny_model: Path) -> None:
    config = TreeKVConfig(cache_size=16, recent_size=4, prefill="stream", block_size=4)
    config.save("settings.json")
    base = ("generate", "--prompt-file", words, "--model", tiny_model, "--tokens", 12)
    result = invoke(*base, "--settings", "settings.json", "--json")
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert TreeKVConfig.from_dict(printed["settings"]) == config.replace(positions="rank")  # what it used
    assert printed["prompt_tokens"] == 400
    assert printed["cache_bytes"] == (16 + 1) * 2 * 2 * 2 * 8 * 4
    assert 1 <= printed["new_tokens"] <= 12

    shown = invoke(*base, "--settings", "settings.json")
    assert shown.stdout.strip() == printed["text"].strip()
    assert "cache 4.4 kB" in shown.stderr

    full = json.loads(invoke(*base, "--policy", "full", "--json").stdout)
    assert full["settings"]["policy"] == "full"
    assert full["cache_bytes"] > 400 * 2 * 2 * 2 * 8 * 4
    assert full["text"] != printed["text"]


def test_generate_reads_standard_input(tiny_model: Path) -> None:
    result = CliRunner().invoke(
        app, ["generate", "--prompt-file", "-", "--model", str(tiny_model), "--tokens", "2", "--json"], input="w5 w6 w8"
    )
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["prompt_tokens"] == 3


@pytest.fixture(scope="module")
def real_demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """`treekv demo` as a user starts it, on the real model and the sample text."""
    folder = tmp_path_factory.mktemp("real") / "run"
    command = [sys.executable, "-m", "app.cli", "demo", "--tokens", "256", "--output", str(folder)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    result = subprocess.run(command, cwd=folder.parent, env=environment, capture_output=True, text=True, timeout=1200)
    assert result.returncode == 0, result.stderr
    return folder, result


def test_the_demo_writes_a_run_of_the_real_model(real_demo: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, _ = real_demo
    assert [path.name for path in folder.parent.iterdir()] == ["run"]
    manifest = run_folder.open_run(folder).manifest
    assert manifest["model"] == "SmolLM2-135M-Instruct"
    assert manifest["load"] == "smollm2" and manifest["seconds"] > 0
    caches = {cache["policy"]: cache for cache in manifest["streaming"]["caches"]}
    entry = 30 * 2 * 3 * 64 * 4  # layers, keys and values, KV heads, head dim, bytes
    assert caches["tree"]["cache_bytes"] == caches["streaming"]["cache_bytes"] == (16 + 1) * entry
    assert caches["full"]["cache_bytes"] >= 256 * entry
    # The text is English and the model knows some: far from the 49,152 of a guess, and forgetting costs.
    assert 3 < caches["full"]["perplexity_once_full"] < caches["tree"]["perplexity_once_full"] < 100
    run = analysis.open(folder / "capture.nc")
    assert (run.tokens, len(run.layers), run.query_heads, run.kv_heads) == (256, 30, 9, 3)
    spectrum = analysis.open(folder / "spectrum.nc")
    assert dict(spectrum["amplitude"].sizes) == {
        "layer": 30,
        "head": 9,
        "band": spectrum.sizes["band"],
        "position": 252,
    }
    assert spectrum["band"].values[-1] == "D1"
    retention = analysis.open(folder / "retention.nc")
    assert ((retention["evicted_at"] == -1).sum("position") == 16).all()
    config = TreeKVConfig.load(folder / "settings.json")
    assert (config.policy, config.cache_size) == ("tree", 16)
    made = [continuation["text"] for continuation in manifest["generation"]["continuations"]]
    assert len(made) == 2
    assert all(len(text.split()) > 10 for text in made)


def test_the_demo_prints_its_tables_and_shows_its_stages(
    real_demo: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, result = real_demo
    manifest = run_folder.open_run(folder).manifest
    printed = " ".join(result.stdout.split())
    for cache in manifest["streaming"]["caches"]:
        assert f"{cache['title']} │ " in printed
        assert f"{cache['perplexity']:.2f} │ {cache['perplexity_once_full']:.2f}" in printed
    assert f"in every band: {manifest['claims']['i']}" in printed
    assert f"in the highest bands: {claim_words(manifest['claims'])[1]}" in printed
    assert (manifest["claims"]["protocol"], manifest["claims"]["samples"]) == ("paper", 5)
    assert "Beyond it, the last" in printed
    for continuation in manifest["generation"]["continuations"]:
        assert " ".join(continuation["text"].split())[:40] in printed
    assert f"treekv dashboard {folder}" in result.stdout
    stages = [line.split(":")[0] for line in result.stderr.splitlines()]
    assert stages[0] == "Loading smollm2"
    assert stages[-1] == "Writing the run folder"
    assert len(stages) == 11


@pytest.mark.slow
def test_the_demo_prints_json_alone_on_standard_output(words: Path, tiny_model: Path, here: Path) -> None:
    result = invoke("demo", "--text", words, "--model", tiny_model, "--tokens", 256, "--output", "run", "--json")
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert printed.pop("run_folder") == "run"
    assert {"format": "treekv-run", "version": 1, **printed} == json.loads((here / "run" / "run.json").read_text())
    assert printed["text"]["title"] == "words.txt"
    assert "Loading" in result.stderr


@pytest.mark.slow
def test_the_demo_replaces_a_previous_run_and_says_when_the_text_is_short(words: Path, tiny_model: Path) -> None:
    base = ("demo", "--text", words, "--model", tiny_model, "--output", "run", "--tokens")
    assert invoke(*base, 256).exit_code == 0
    result = invoke(*base, 2048)
    assert result.exit_code == 0, result.output
    assert "400 tokens (all it has; 2,048 were requested)" in " ".join(result.stdout.split())
    assert json.loads(Path("run/run.json").read_text())["text"]["tokens"] == 400


@pytest.mark.parametrize(
    ("called", "on_path", "shown"),
    [
        (".venv/bin/treekv", None, ".venv/bin/treekv"),
        (".venv/bin/treekv", "/usr/bin/treekv", "treekv"),
        ("/x/bin/treekv", None, "/x/bin/treekv"),
        ("/x/app/cli/__main__.py", None, "env/bin/treekv"),
    ],
)
def test_the_command_is_named_as_it_will_be_found(
    called: str, on_path: str | None, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside = tmp_path / "env" / "bin" / "treekv"
    beside.parent.mkdir(parents=True)
    beside.touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(beside.with_name("python")))
    monkeypatch.setattr(sys, "argv", [called])
    monkeypatch.setattr(shutil, "which", lambda name: on_path)
    assert snippets.own_command() == shown


@pytest.mark.slow
def test_control_c_ends_the_demo_with_130_and_leaves_nothing(
    words: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(folder: Path, *rest: object) -> None:
        (folder / "half").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(chain, "write", stop)
    result = invoke("demo", "--text", words, "--model", tiny_model, "--tokens", 256, "--output", "runs/run")
    assert result.exit_code == 130
    assert os.listdir("runs") == []


# ---------------------------------------------------------------------- what goes wrong


def refused(here: Path, *arguments: object) -> str:
    """The sentence of a refused command, after checks that it is one and that nothing was written."""
    before = sorted(here.rglob("*"))
    result = invoke(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    *stages, sentence = result.stderr.splitlines()
    assert all(stage.startswith("Loading ") for stage in stages)
    assert sentence.startswith("error: ")
    assert sorted(here.rglob("*")) == before
    return sentence


@pytest.mark.parametrize("command", [("demo", "--text"), ("capture",), ("generate", "--prompt-file")])
def test_texts_that_cannot_be_read(here: Path, command: tuple[str, ...]) -> None:
    (here / "empty.txt").write_text(" \n")
    (here / "binary.txt").write_bytes(b"caf\xe9")
    assert "there is no file 'nothing.txt'" in refused(here, *command, "nothing.txt")
    assert "is a folder" in refused(here, *command, here)
    assert "'empty.txt' is empty" in refused(here, *command, "empty.txt")
    assert "'binary.txt' is not UTF-8 text (byte 3" in refused(here, *command, "binary.txt")


@pytest.mark.parametrize("command", [("demo", "--text"), ("capture",), ("generate", "--prompt-file")])
def test_models_that_cannot_be_loaded(
    here: Path, words: Path, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*arguments: object, **options: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    (here / "folder").mkdir()
    base = (*command, words, "--model")
    assert "no file or folder './nothing'" in refused(here, *base, "./nothing")
    assert "has no config.json" in refused(here, *base, "./folder")
    assert "the hub cannot be reached" in refused(here, *base, "nobody/a-model-that-nobody-has")


def test_an_encoder(here: Path, words: Path) -> None:
    (here / "bert").mkdir()
    (here / "bert" / "config.json").write_text('{"model_type": "bert"}')
    (here / "bert" / "model.safetensors").touch()
    assert "this 'bert' model is an encoder" in refused(here, "demo", "--text", words, "--model", "bert")


def test_texts_that_are_too_short(here: Path, tiny_model: Path) -> None:
    (here / "short.txt").write_text("w5 " * 20)
    assert "the text has 20 tokens; at least 256 are needed" in refused(
        here, "demo", "--text", "short.txt", "--model", tiny_model
    )
    assert "20 tokens" in refused(here, "capture", "short.txt", "--model", tiny_model)


def test_outputs_that_may_not_be_written(here: Path, words: Path) -> None:
    (here / "folder").mkdir()
    (here / "folder" / "photo").touch()
    assert "exists and is not a run folder" in refused(here, "demo", "--output", "folder")
    assert "is a file" in refused(here, "demo", "--output", words)
    assert "contains the current folder" in refused(here, "demo", "--output", here, "--force")
    assert "is a folder" in refused(here, "capture", words, "--output", "folder")
    assert "does not exist" in refused(here, "capture", words, "--output", "nowhere/capture.nc")
    assert "exists; give another name, or use --force" in refused(here, "capture", words, "--output", words)


def test_prompts_and_settings_that_cannot_be_used(here: Path, tiny_model: Path) -> None:
    assert "give a prompt" in refused(here, "generate")
    (here / "x").write_text("w5 w6")
    assert "not both" in refused(here, "generate", "w5", "--prompt-file", "x")
    assert "the prompt is empty" in refused(here, "generate", " ")
    assert "cannot read settings from 'nothing.json'" in refused(here, "generate", "w5", "--settings", "nothing.json")
    (here / "odd.json").write_text('{"format": "treekv-settings", "version": 1, "colour": "green"}')
    assert "unknown key 'colour'" in refused(here, "generate", "w5", "--settings", "odd.json")
    assert "'lru'" in refused(here, "generate", "w5", "--policy", "lru")
    assert "cache_size" in refused(here, "generate", "w5", "--cache-size", "0")
    assert "has no chat template" in refused(here, "generate", "w5", "--chat", "--model", tiny_model)


@pytest.mark.slow
def test_runs_that_cannot_be_shown(here: Path, words: Path, small_run: Path) -> None:
    (here / "folder").mkdir()
    assert "there is no run folder 'nothing'" in refused(here, "dashboard", "nothing")
    assert "is a file" in refused(here, "dashboard", words)
    assert "is not a run folder" in refused(here, "dashboard", "folder")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"port {port} is in use" in refused(here, "dashboard", small_run, "--port", port)


def test_values_out_of_range_are_refused_by_the_parser() -> None:
    for arguments in (("demo", "--tokens", "255"), ("capture", "x", "--queries", "0"), ("dashboard", "--port", "0")):
        result = invoke(*arguments)
        assert result.exit_code == 2
        assert "Invalid value" in result.stderr
