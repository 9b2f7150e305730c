"""Links that ask for what a run does not have."""

from __future__ import annotations

from pathlib import Path

import pytest

import analysis
from app.text.wording import titled
from tests.app.pages import EVICTION_MAP, alternatives, opened


def test_what_a_link_asks_for_in_vain_is_said_once(small_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test = opened(
        small_run, monkeypatch, EVICTION_MAP,
        layer="999", head="![x](y)", policy="nobody", step="9999", positions=["100", "100"],
    )  # fmt: skip
    assert [warning.value.replace("\\", "") for warning in test.warning] == [
        "The link asks for something that this run does not have: layer 999 (all are shown); head "
        "![x](y) (all are shown); positions 100 to 100 (100 to 116 are shown); "
        "the policy nobody (TreeKV is shown); step 9999 (the last, 320, "
        "is shown)."
    ]
    assert "\\!\\[x\\]" in test.warning[0].value
    retention = analysis.open(small_run / "retention.nc")
    expected = analysis.plot.eviction_map(titled(retention), policy="TreeKV", start=100, stop=116)
    assert alternatives(test)[0] == expected.layout.meta["alt"]
    assert test.slider(key="step").value == 320
    test.slider(key="step").set_value(200).run()
    assert not test.warning


def test_a_link_to_anothers_generation_says_whose_it_is(small_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test = opened(small_run, monkeypatch, EVICTION_MAP, policy="TreeKV (real run)")
    assert "TreeKV (real run), which exists only in the session that generated it" in test.warning[0].value.replace(
        "\\", ""
    )


def test_a_link_to_what_is_there_is_taken_without_a_word(small_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"layer": "1", "head": "3", "policy": "StreamingLLM", "step": "200", "positions": ["50", "150"]}
    test = opened(small_run, monkeypatch, EVICTION_MAP, **asked)
    assert not test.warning
    assert test.slider(key="step").value == 200
    assert test.segmented_control(key="policy").value == "streaming"
