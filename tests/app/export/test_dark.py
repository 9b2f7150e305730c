"""Figures on a dark page."""

from __future__ import annotations

import json
from pathlib import Path

import plotly.graph_objects as go
import pytest

import analysis
from app.export import dark


def test_a_dark_page_gets_light_ink_and_the_same_data() -> None:
    figure = analysis.plot.theme.figure("a", "b", "words")
    figure.add_scatter(x=[1], y=[2], line={"color": "#440154"})
    figure.add_scatter(x=[1], y=[2], line={"color": "#fde725"})
    figure.add_scatter(x=[1, 2], y=[1, 2], text=["#440154", "white"], marker={"color": ["#440154", "#c9ced6"]})
    lit = dark.themed(figure, True)
    assert figure.layout.paper_bgcolor == "white"
    light = dark.themed(figure, False)
    assert lit.layout.font.color == "#e6e9f0"
    assert light.layout.font.color == "#1f2430"
    assert lit.layout.paper_bgcolor == light.layout.paper_bgcolor == "rgba(0,0,0,0)"
    assert lit.layout.meta == figure.layout.meta
    assert [trace.x for trace in lit.data] == [trace.x for trace in figure.data]
    low, high = (brightness(trace.line.color) for trace in lit.data[:2])
    assert 90 < low < high
    assert lit.data[2].text == ("#440154", "white")
    assert brightness(lit.data[2].marker.color[0]) == low  # a list of colours too


def test_the_changes_for_a_dark_page_make_the_dark_figure(small_run: Path) -> None:
    figure = analysis.plot.eviction_maps(analysis.open(small_run / "retention.nc"))
    content = json.loads(figure.to_json())
    changes = dark.dark_changes(figure)
    for place, value in changes:
        part = content
        for step in place[:-1]:
            part = part.setdefault(step, {}) if isinstance(part, dict) else part[step]
        part[place[-1]] = value
    assert content == json.loads(dark.themed(figure, True).to_json())
    assert len(json.dumps(changes)) < 20_000 < len(figure.to_json())


@pytest.mark.parametrize("make", ["eviction_map", "density", "tree"])
def test_no_dark_ink_is_left_on_a_dark_page(small_run: Path, make: str) -> None:
    retention = analysis.open(small_run / "retention.nc")
    chosen = {} if make == "density" else {"policy": "tree"}
    figure = dark.themed(getattr(analysis.plot, make)(retention, **chosen), True)
    left = [colour for colour in ("#1f2430", "#5b6372", "#e6e8ec", "#f2f3f5") if colour in json.dumps(ink(figure))]
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
