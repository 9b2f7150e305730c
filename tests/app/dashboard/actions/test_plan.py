"""How much can I have, on the page Compare: the same as the command says."""

from __future__ import annotations

import pytest

from analysis import memory_plan
from app.dashboard.actions import plan
from tests.app.dashboard.comparison import TWO
from tests.app.pages import said


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
    assert "the weights take 2.0 MB, and the memory is 1.0 MB" in said(test)


def test_a_model_that_is_not_here_has_no_weights(compare) -> None:
    assert "its weights are not taken from the memory" in said(compare(compare=TWO), "caption")
