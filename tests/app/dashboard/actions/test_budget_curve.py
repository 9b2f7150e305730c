"""The curve on Compare: predicted once it is asked for, kept in the run, measured on request."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import analysis
from app.dashboard.actions import budget_curve, losses
from tests import tiny
from tests.app.dashboard.comparison import TWO
from tests.app.pages import alternatives, ended, figures, page, said
from treekv import TreeKVConfig


def test_it_is_predicted_and_measured(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: None
) -> None:
    monkeypatch.setattr(losses, "why_not", lambda *of: "")  # the tiny model has no name
    run = tmp_path / "run"
    shutil.copytree(small_run, run)
    test = page("compare", run, monkeypatch, compare=TWO, compare_layers="0")
    test.toggle(key="curve").set_value(True).run()
    ended(test, budget_curve.JOB)
    captured = analysis.open(run / "capture.nc")
    configs = {
        title: TreeKVConfig(policy=policy, cache_size=64, prefill="stream")
        for title, policy in (("TreeKV", "tree"), ("StreamingLLM", "streaming"))
    }
    expected = analysis.plot.budget_curve(analysis.budget_curve(tiny.llama(), captured, configs))
    assert expected.layout.meta["alt"] in alternatives(test)
    test.button(key="measure-curve").click().run()
    ended(test, budget_curve.JOB)
    shown = next(one for one in figures(test) if one["layout"]["meta"]["alt"] == expected.layout.meta["alt"])
    assert [trace["name"] for trace in shown["data"]][1::2] == ["TreeKV, measured", "StreamingLLM, measured"]
    assert not said(test)
