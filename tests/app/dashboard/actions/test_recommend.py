"""The recommendation on the page Compare: explained, applied, refused."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
import xarray as xr

import analysis
from app.dashboard.actions import recommend
from app.dashboard.session.settings import CHOSEN
from tests import tiny
from tests.app.dashboard.comparison import TWO, configs
from tests.app.pages import alternatives, ended, page, said
from treekv import TreeKVConfig


def test_the_recommendation_is_explained_and_taken(small_run: Path, compare) -> None:
    test = compare(compare=TWO)
    test.number_input(key="goal-tokens").set_value(48).run()
    test.button(key="recommend").click().run()
    test = ended(test, "recommendation-job")
    run = analysis.open(small_run / "capture.nc")
    choice = analysis.recommend(run, 48)
    assert test.session_state["recommendation-job"].result.config == choice.config
    shown = [markdown.value.replace("\\", "") for markdown in test.markdown]
    for sentence in choice.sentences:
        assert f"- {sentence}" in shown
    assert alternatives(test)[-1] == choice.figure.layout.meta["alt"]
    test.button(key="take-recommendation").click().run()
    assert test.session_state[CHOSEN] == choice.config
    assert configs(test)[-1] == choice.config


@pytest.mark.parametrize(
    ("goal", "field", "value", "words"),
    [
        ("Tokens to keep", "goal-tokens", 1000, "A budget of 1000 tokens needs a capture of at least 2000"),
        ("Bytes to keep", "goal-bytes", 0.0, "0 bytes hold 0 tokens"),
        ("Loss to allow", "goal-loss", 0.1, "needs the model"),
    ],
)
def test_a_goal_that_cannot_be_met_is_one_sentence(compare, goal: str, field: str, value: float, words: str) -> None:
    test = compare(compare=TWO)
    test.segmented_control(key="goal").set_value(goal).run()
    test.number_input(key=field).set_value(value).run()
    test.button(key="recommend").click().run()
    test = ended(test, "recommendation-job")
    assert not test.exception
    assert words in said(test)
    assert len(alternatives(test)) == 1


def test_texts_of_other_runs_count_too(small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "other"):
        shutil.copytree(small_run, tmp_path / name)
    captured = analysis.open(small_run / "capture.nc")
    with torch.inference_mode(False):
        other = analysis.capture(
            tiny.llama(), None, captured.token_ids.flip(0), max_tokens=captured.tokens, sensitivity=True
        )
    other.save(tmp_path / "other" / "capture.nc")
    test = page("compare", tmp_path / "one", monkeypatch, compare=TWO)
    test.multiselect(key="recommend_texts").set_value(["other"])
    test.number_input(key="goal-tokens").set_value(48).run()
    test.button(key="recommend").click().run()
    test = ended(test, "recommendation-job")
    texts = [analysis.open(tmp_path / name / "capture.nc") for name in ("one", "other")]
    assert test.session_state["recommendation-job"].result.config == analysis.recommend(texts, 48).config


def test_where_another_policy_is_better_it_is_what_the_page_recommends(small_run: Path) -> None:
    captured = analysis.open(small_run / "capture.nc", "capture")
    choice = analysis.recommend(captured, 48)
    window = TreeKVConfig(policy="streaming", cache_size=48)
    names = ["recommended", "paper's defaults", "StreamingLLM"]
    for cost, best in (([0.3, 0.2, 0.1], window), ([0.1, 0.2, 0.3], choice.config)):
        losses = xr.DataArray(cost, dims="policy", coords={"policy": names})
        told = dataclasses.replace(choice, losses=losses, alternatives={"StreamingLLM": window})
        assert recommend._best(told) == best
        words = recommend.in_one_sentence(told, captured)
        assert words.startswith("Use StreamingLLM with 48 tokens on this kind of text: ") == (best is window)
        assert "+0.100" in words and "+0.200" in words and "+0.300" in words
