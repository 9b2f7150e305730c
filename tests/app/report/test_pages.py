"""The HTML pages share one frame, escape what they are given and load nothing from elsewhere."""

from __future__ import annotations

import plotly.graph_objects as go
import pytest

from app.report.figures_page import figures_page
from app.report.templates import picture

EVIL = "</script><img src=http://example.invalid/x.png>"


@pytest.fixture
def figure() -> go.Figure:
    return go.Figure(go.Bar(y=[1, 2]), layout={"meta": {"alt": f"Two bars {EVIL}"}})


def test_a_page_of_figures_has_plotly_once_and_every_alternative(figure: go.Figure) -> None:
    page = figures_page(f"Title {EVIL}", [figure, figure])
    assert page.startswith("<!doctype html>")
    assert page.count("<script>") - page.count("<script>\n") >= 1
    assert page.count("plotly.js v") == 1
    assert page.count('role="img"') == 2
    assert EVIL not in page and "Title &lt;/script&gt;" in page
    assert "default-src 'none'" in page
    assert "<figcaption>" not in page  # there are no captions


def test_a_picture_has_its_own_element(figure: go.Figure) -> None:
    made = picture("one", figure, "How to read it.")
    assert made["html"].count('id="picture-one"') == 1
    assert made["alt"] == figure.layout.meta["alt"]
    assert made["caption"] == "How to read it."
