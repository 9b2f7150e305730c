"""treekv generate --engine openvino: what is refused before a model is loaded, and what runs here beside it."""

from __future__ import annotations

import pytest

from app.cli import engine
from app.engines import openvino_engine
from app.export.other_engines import engine_config
from tests.app.cli.commands import invoke
from treekv import TreeKVConfig


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--compare", "full", "--temperature", "0.7"], "needs --temperature 0, got 0.7"),
        (["--model", "owner/model"], "reads models from GGUF: the alias smollm2 or a .gguf file, got 'owner/model'"),
        (["--model", "gemma3-270m"], "'gemma3-270m' is of 'gemma3'"),
        (["--question", "b"], "continues one prompt"),
    ],
)
def test_what_the_engine_cannot_do_is_refused_before_a_model_is_loaded(monkeypatch, arguments, words):
    monkeypatch.setattr(openvino_engine, "check_installed", lambda: None)
    result = invoke("generate", "a", "--engine", "openvino", *arguments)
    assert result.exit_code == 2 and words in " ".join(result.stderr.split()) and "Loading" not in result.stderr


def test_what_runs_here_beside_the_engine_is_what_it_runs():
    config = TreeKVConfig(policy="openvino", cache_size=256, prefill="stream", positions="rank")
    assert engine.compared(config, "openvino") == engine_config(config) != config
    assert engine.compared(config, "streaming") == config.for_policy("streaming")
    assert engine.compared(TreeKVConfig("full"), "openvino").policy == "openvino"  # the engine evicts nothing then
