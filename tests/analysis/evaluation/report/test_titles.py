"""Settings have the titles of their policies."""

from __future__ import annotations

import pytest

from analysis.evaluation.report.titles import settings_title
from analysis.plot.policy_colours import policy_of


@pytest.mark.parametrize(
    ("name", "title", "policy"),
    [
        ("tree", "TreeKV", "tree"),
        ("tree_left", "TreeKV, left", "tree_left"),
        ("h2o", "H2O, as published", "h2o"),
        ("h2o paper", "H2O, paper's allocation", "h2o"),
        ("tree (stride 2)", "TreeKV (stride 2)", "tree"),
        ("h2o paper (dtype a (b))", "H2O, paper's allocation (dtype a (b))", "h2o"),
        ("tree without sinks", "TreeKV, without sinks", "tree"),
        ("recommended", "TreeKV, recommended", "tree"),
        ("recommended sum", "TreeKV, recommended, but by the sum", "tree"),
        ("tree future energy", "TreeKV, future-shifted scores", "tree"),
        ("mine (x)", "mine (x)", None),
        ("treetop", "treetop", None),
        ("", "", None),
    ],
)
def test_a_title(name: str, title: str, policy: str | None) -> None:
    assert settings_title(name) == title
    assert policy_of(title) == policy
    assert settings_title(name, policy) == title


def test_a_name_that_tells_of_another_policy_stays() -> None:
    assert settings_title("recommended", "streaming") == "recommended"
    assert settings_title("h2o (x)", "tree") == "h2o (x)"
