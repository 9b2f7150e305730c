"""How much can I have, on the page Compare: the same as the command says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import analysis
from analysis import memory_plan
from app.dashboard.actions import losses, plan
from app.text import wording
from tests import tiny
from tests.app.dashboard.comparison import TWO
from tests.app.pages import ended, page, said
from treekv import TreeKVConfig, TreeKVError


def test_weights_are_taken_from_the_memory_as_the_command_does(compare, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = memory_plan.ModelSizes([], kv_heads=2, query_heads=4, head_dim=8, parameters=10**6)
    monkeypatch.setattr(plan, "sizes_here", lambda model: sizes)
    test = compare(compare=TWO)
    test.text_input(key="plan-memory").set_value("8 MB").run()
    assert "Weights: 2.0 MB in bfloat16." in said(test, "caption")
    with_weights = said(test, "markdown")
    test.toggle(key="plan-weights").set_value(False).run()
    assert "Weights:" not in said(test, "caption") and said(test, "markdown") != with_weights
    test.toggle(key="plan-weights").set_value(True).run()
    test.text_input(key="plan-memory").set_value("1 MB").run()
    assert "The weights take 2.0 MB, and the memory is 1.0 MB" in said(test)


def test_a_model_that_is_not_here_has_no_weights(compare) -> None:
    assert "its weights are not taken from the memory" in said(compare(compare=TWO), "caption")


def test_the_loss_at_that_size_is_predicted_when_the_section_is_opened(
    small_run: Path, tmp_path: Path, tiny_model: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(small_run, tmp_path / "run")
    file = tmp_path / "run" / "run.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "load": "tiny"}))
    captured = analysis.open(tmp_path / "run" / "capture.nc", "capture")
    monkeypatch.setattr(losses, "check_known", lambda model, captured: None)
    test = page("compare", tmp_path / "run", monkeypatch, compare=TWO)
    small = analysis.cache_bytes(captured, TreeKVConfig(cache_size=72, prefill="stream"), 32_768, dtype="bfloat16")
    test.text_input(key="plan-memory").set_value(f"{16 * small} B").run()
    assert plan.JOB not in test.session_state
    test.session_state[plan.OPEN] = True
    test = ended(test.run(), plan.JOB)
    planned = TreeKVConfig(cache_size=72, prefill="stream")
    table = analysis.replay(tiny.llama(), captured, {"planned": planned})
    expected = float(analysis.extra_loss(table).sel(policy="planned"))
    assert f"Predicted loss at that size: {expected:+.3f} nats a token" in said(test, "markdown")


def test_another_model_is_planned_from_its_configuration(compare, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = memory_plan.ModelSizes([memory_plan.CacheLayer(0, 64, None)], 1, 1, 32, parameters=1000)
    asked = []
    monkeypatch.setattr(plan, "load_config", lambda name: asked.append(name))
    monkeypatch.setattr(memory_plan, "model_sizes", lambda config: sizes)
    monkeypatch.setattr(plan, "model_names", lambda: ["some/model"])
    test = compare(compare=TWO)
    test.selectbox(key="plan-model").set_value("some/model").run()
    assert asked == ["some/model"]
    found = memory_plan.plan(sizes, memory=8e9 - 2000, users=16, context=32_768)
    assert wording.plan_in_words(found, 16, 32_768, "bfloat16") in said(test, "markdown")
    assert "a run of that model" in said(test, "caption")


def test_another_model_that_is_nowhere_is_a_sentence(compare, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise TreeKVError(f"there is no model {name!r}")

    monkeypatch.setattr(plan, "load_config", refuse)
    monkeypatch.setattr(plan, "model_names", lambda: ["nowhere"])
    test = compare(compare=TWO)
    test.selectbox(key="plan-model").set_value("nowhere").run()
    assert "There is no model 'nowhere'." in said(test) and not test.exception
