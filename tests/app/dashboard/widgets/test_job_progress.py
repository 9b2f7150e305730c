"""A page says that it waits for the heavy work of another."""

from __future__ import annotations

import pytest
import streamlit as st

from app.dashboard.actions import compare as actions
from app.dashboard.widgets import job_progress
from tests.app.dashboard.comparison import TWO
from tests.app.pages import alternatives


def test_a_page_says_that_it_waits_for_another_simulation(compare) -> None:
    actions._simulated.clear()
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        real = st.delta_generator.DeltaGenerator.info

        def info(self, body, **options):
            said.append(body)
            if job_progress._TURN.locked():
                job_progress._TURN.release()  # the other one ends once this page has said that it waits
            return real(self, body, **options)

        patch.setattr(st.delta_generator.DeltaGenerator, "info", info)
        assert job_progress._TURN.acquire(timeout=60)
        test = compare(compare=TWO)
    assert "Waiting for another simulation to end" in said
    assert alternatives(test)
    assert "Waiting for another simulation to end" not in [info.value for info in test.info]
    assert not job_progress._TURN.locked()
