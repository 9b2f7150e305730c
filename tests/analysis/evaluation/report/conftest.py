"""Fixtures for tests of reports."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.evaluation.sweep.records import Record
from tests.analysis.evaluation.report.examples import record


@pytest.fixture
def records() -> list[Record]:
    """Full and two settings at two budgets on 8 documents; one measurement failed."""
    draw = np.random.default_rng(3)
    made = []
    for document in range(8):
        base = float(draw.uniform(40, 90))
        made.append(record("full", document, base))
        for name in ("tree", "streaming"):
            for budget in (64, 128):
                failed = (name, budget, document) == ("tree", 64, 5)
                score = None if failed else base - float(draw.uniform(0, 30))
                made.append(record(name, document, score, budget=budget))
    return [made[i] for i in draw.permutation(len(made))]
