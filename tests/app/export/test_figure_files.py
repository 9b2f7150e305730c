"""Figures as HTML: a whole page, or an element of one."""

from __future__ import annotations

import plotly.graph_objects as go
import pytest

from app.export import figure_files
from treekv import TreeKVError


def test_a_page_has_its_script_and_an_element_has_none() -> None:
    figure = go.Figure(go.Bar(y=[1, 2]))
    page, element = figure_files.html(figure), figure_files.div(figure, "mine")
    assert page.startswith("<!doctype html>") and "plotly.js v" in page
    assert 'id="mine"' in element and "plotly.js v" not in element and "<html" not in element
    for content in (page, element):
        assert '"displaylogo": false' in content


def test_other_kinds_of_images_are_refused() -> None:
    with pytest.raises(TreeKVError, match="can be 'svg' or 'png', not 'gif'"):
        figure_files.image(go.Figure(), "gif")
