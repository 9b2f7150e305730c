"""The page that a command writes."""

from __future__ import annotations

from pathlib import Path

import plotly.graph_objects as go
import pytest

from app.cli.page import write_page
from treekv import TreeKVError

BARS = go.Figure(go.Bar(y=[1, 2]), layout={"meta": {"alt": "Two bars."}})


def test_figures_are_written_one_below_the_other(tmp_path: Path) -> None:
    write_page(tmp_path / "figures.html", "What is kept", [BARS, BARS])
    page = (tmp_path / "figures.html").read_text(encoding="utf-8")
    assert "What is kept" in page and page.count('aria-label="Two bars."') == 2


def test_a_page_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(TreeKVError, match="cannot write"):
        write_page(tmp_path / "no such folder" / "figures.html", "What is kept", [BARS])
    assert list(tmp_path.iterdir()) == []
