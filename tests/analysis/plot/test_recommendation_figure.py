"""Every candidate is drawn by its simulated error."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.recommendation.decisions import QUESTIONS
from analysis.recommendation.recommend import recommend


@pytest.fixture(scope="module")
def choice(captured):
    return recommend(captured, 64, questions=QUESTIONS)


def test_the_figure_shows_every_candidate(choice):
    figure = choice.figure
    tried, chosen = figure.data
    rows = choice.reasons
    assert len(tried.x) + len(chosen.x) == rows.sizes["candidate"]
    np.testing.assert_allclose(sorted([*tried.x, *chosen.x]), np.sort(100 * rows["error"].values))
    assert len(chosen.x) == int(rows["chosen"].sum())
    assert "start: paper's defaults, 64 tokens" in figure.layout.meta["alt"]
    assert all("error" in sentence for sentence in choice.sentences)
