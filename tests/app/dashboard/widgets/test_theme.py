"""Figures on a dark page."""

from __future__ import annotations

import json
from pathlib import Path

import plotly.graph_objects as go
import pytest

import analysis
from app.dashboard.widgets import theme


def test_a_dark_page_gets_light_ink_and_the_same_data() -> None:
    figure = analysis.plot.theme.figure("a", "b", "words")
    figure.add_scatter(x=[1], y=[2], line={"color": "#440154"})
    figure.add_scatter(x=[1], y=[2], line={"color": "#fde725"})
    figure.add_scatter(x=[1, 2], y=[1, 2], text=["#440154", "white"], marker={"color": ["#440154", "#c9ced6"]})
    dark, light = theme.themed(figure, True), theme.themed(figure, False)
    assert dark.layout.font.color == "#e6e9f0"
    assert light.layout.font.color == "#1f2430"
    assert dark.layout.paper_bgcolor == light.layout.paper_bgcolor == "rgba(0,0,0,0)"
    assert light.data == figure.data and figure.layout.paper_bgcolor == "white"  # what is taken away keeps its paper
    assert dark.layout.meta == figure.layout.meta
    assert [trace.x for trace in dark.data] == [trace.x for trace in figure.data]
    low, high = (brightness(trace.line.color) for trace in dark.data[:2])
    assert 90 < low < high
    assert dark.data[2].text == ("#440154", "white")
    assert brightness(dark.data[2].marker.color[0]) == low  # a list of colours too


@pytest.mark.parametrize("make", ["eviction_map", "density", "tree"])
def test_no_dark_ink_is_left_on_a_dark_page(small_run: Path, make: str) -> None:
    retention = analysis.open(small_run / "retention.nc")
    chosen = {} if make == "density" else {"policy": "tree"}
    dark = theme.themed(getattr(analysis.plot, make)(retention, **chosen), True)
    left = [colour for colour in ("#1f2430", "#5b6372", "#e6e8ec", "#f2f3f5") if colour in json.dumps(ink(dark))]
    assert left == []


def ink(figure: go.Figure) -> dict:
    """Everything but the data's own arrays."""
    content = figure.to_plotly_json()
    names = ("line", "marker", "fillcolor", "textfont")
    return {
        "layout": json.loads(go.Figure(layout=content["layout"]).to_json())["layout"],
        "data": [{name: trace[name] for name in names if name in trace} for trace in content["data"]],
    }


def brightness(colour: str) -> float:
    red, green, blue = (int(part) for part in colour[4:-1].split(","))
    return 0.299 * red + 0.587 * green + 0.114 * blue
