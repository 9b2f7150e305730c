"""The process of the engine: what it tells, how it ends, and the real engine where it is installed."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from app.engines import openvino_engine
from app.engines.gguf_copy import engine_file
from app.engines.openvino_engine import check_block, check_prompt, generate, tokens_at_once
from app.export.other_engines import eviction_settings
from app.generation import follow
from app.runs.sample_text import sample_text
from tests.needs import lacking
from treekv import TreeKVConfig, TreeKVError

CONFIG = TreeKVConfig(policy="openvino", cache_size=127)


class Words:
    """A tokenizer in which token n is the word "wn"."""

    def decode(self, ids, **_) -> str:
        return "".join(f" w{int(i)}" for i in torch.as_tensor(ids).reshape(-1))


@pytest.fixture
def pretended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A process with the given body instead of the engine's; `request` and `tell` are as there."""

    def pretend(body: str) -> None:
        script = tmp_path / "process.py"
        script.write_text(
            "import json, os, sys, time\nrequest = json.load(sys.stdin)\n"
            "def tell(**event):\n    print(json.dumps(event), flush=True)\n" + body
        )
        monkeypatch.setattr(openvino_engine, "PROCESS", script)
        monkeypatch.setattr(openvino_engine, "check_installed", lambda: None)
        monkeypatch.setattr(openvino_engine, "_name", lambda: "OpenVINO GenAI 0")

    return pretend


def run(tokens: int = 3, **options):
    pieces: list[str] = []
    ids = list(range(100))
    return *generate(Path("m.gguf"), Words(), ids, CONFIG, tokens, pieces.append, **options), pieces


def test_what_the_process_tells_becomes_a_generation(pretended, tmp_path):
    pretended(f"""
open({str(tmp_path / "request")!r}, "w").write(json.dumps(request))
tell(version="1.2"), tell(loaded=True)
blocks = request["blocks"]
for used, token in ((4, 7), (5, 8), (3, 9)):
    tell(usage=100 * used / blocks, bytes=640 * blocks)
    tell(token=token, log_prob=-0.5)
tell(finished=True)
""")
    result, usage, pieces = run(stop_ids=[2], temperature=0.5)
    assert result.token_ids == [7, 8, 9] and result.text == "".join(pieces) == " w7 w8 w9"
    assert (usage.version, usage.prompt_blocks, usage.blocks, usage.log_probs) == ("1.2", 5, 3, [-0.5] * 3)
    assert (result.prompt_tokens, result.kept_tokens, result.cache_bytes) == (100, 96, 3 * 640)
    assert result.full_bytes == 102 * 640 // 32 and result.prompt_seconds >= 0 and not result.stopped
    asked = json.loads((tmp_path / "request").read_text())
    assert asked["ids"] == list(range(100)) and asked["stop_ids"] == [2] and asked["temperature"] == 0.5
    assert asked["eviction"] == eviction_settings(CONFIG) == usage.eviction
    assert asked["eviction"]["apply_rotation"] is False  # it ends the engine with heap corruption
    assert asked["blocks"] * 32 > 103


@pytest.mark.parametrize(
    "body, words",
    [
        ("tell(error='no such model')", "refused this: no such model"),
        ("os.abort()", "OpenVINO GenAI 0 was ended by SIGABRT while it ran these settings"),
        ("sys.exit(3)", "ended with exit status 3"),
        ("", "ended with exit status 0"),
    ],
)
def test_how_it_can_fail_is_said_in_one_sentence(pretended, body, words):
    pretended(body)
    with pytest.raises(TreeKVError, match=words):
        run()


def test_a_process_that_cannot_start_reading_is_no_traceback(pretended, monkeypatch):
    pretended("")
    openvino_engine.PROCESS.write_text("import sys; sys.exit(5)")
    with pytest.raises(TreeKVError, match="exit status 5"):
        generate(Path("m.gguf"), Words(), list(range(100)) * 5000, CONFIG, 3)


def test_ctrl_c_keeps_the_text_so_far_and_ends_the_process(pretended, tmp_path):
    pretended(f"""
open({str(tmp_path / "pid")!r}, "w").write(str(os.getpid()))
tell(loaded=True), tell(usage=1.0, bytes=64)
for token in range(4):
    tell(token=token, log_prob=0.0)
time.sleep(600)
""")

    def impatient(text: str) -> None:
        if "w2" in text:
            raise KeyboardInterrupt

    result, _ = generate(Path("m.gguf"), Words(), [1, 2], CONFIG, 9, impatient)
    assert result.stopped and result.token_ids[:2] == [0, 1]
    assert not Path("/proc", (tmp_path / "pid").read_text()).exists()


def test_an_engine_that_is_not_installed_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        TreeKVError, match=r"'openvino-genai', which is not installed: pip install 'treekv\[openvino\]'"
    ):
        generate(Path("m.gguf"), Words(), [1], CONFIG, 1)


def test_prompts_on_which_the_engine_fails_are_refused():
    eviction = eviction_settings(CONFIG)
    for length in (1, 32, 40, 200):
        check_prompt(length, eviction)
    for length in (33, 39):
        with pytest.raises(TreeKVError, match=f"prompts of 33 to 39 tokens .* this one has {length}"):
            check_prompt(length, eviction)
    check_prompt(33, eviction | {"aggregation_mode": "SUM"})
    check_prompt(33, None)


def test_blocks_that_the_engine_does_not_have_are_refused():
    check_block(CONFIG)
    check_block(TreeKVConfig(policy="keydiff", interval=8))  # runs as the nearest settings
    with pytest.raises(TreeKVError, match=r"interval must be 32, .* got 16"):
        check_block(CONFIG.replace(interval=16))


@pytest.mark.parametrize("length", [1, 7, 255, 256, 257, 263, 264, 512, 513, 519, 520, 5000])
def test_the_queries_that_score_a_prompt_are_read_in_one_pass(length):
    size = tokens_at_once(length, 8)
    last = (length - 1) % size + 1
    assert 256 <= size < 300 and (length <= size or last >= 8)


@pytest.fixture(scope="module")
def engine_model():
    if importlib.util.find_spec("openvino_genai") is None:
        lacking("OpenVINO GenAI (205 MB) is not installed: pip install -e '.[openvino]'")
    with engine_file("smollm2") as file:
        yield file


def test_the_real_engine_keeps_what_the_policy_keeps(engine_model, smollm2):
    """What it says of its own tokens is what the policy says of them, to the last digits of 16 bits; so it evicted the
    same blocks in each layer."""
    model, tokenizer = smollm2
    ids = tokenizer(sample_text()[:3000])["input_ids"][:150]
    assert len(ids) == 150
    result, usage = generate(engine_model, tokenizer, ids, CONFIG, 14)
    assert usage.eviction["max_cache_size"] == 96
    assert (usage.prompt_blocks, usage.blocks) == (5, 4)
    found = follow(model, torch.tensor([ids]), result.token_ids, CONFIG)
    # The first divergence, if any, is where two tokens are as good as equal.
    assert max(found.gaps) < 0.05, found.gaps  # of 16 bits, whose rounding depends on the processor
    assert max(abs(a - b) for a, b in zip(found.log_probs, usage.log_probs)) < 0.05
    other = follow(model, torch.tensor([ids]), result.token_ids, CONFIG.for_policy("streaming"))
    assert max(abs(a - b) for a, b in zip(other.log_probs, usage.log_probs)) > 0.1
