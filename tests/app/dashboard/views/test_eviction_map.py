"""The eviction map's controls over time: text, density and tree at a step, playing, and the two themes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import plotly.graph_objects as go
import pytest

import analysis
from app.dashboard.widgets import step_slider, theme
from app.text.wording import titled
from tests.app.conftest import EVIL, TOKENS
from tests.app.dashboard.views.test_views import EVICTION_MAP, WAVELETS, alternatives, opened


def sheets(test) -> list[str]:
    assert not test.exception
    return [sheet.proto.body for sheet in test.get("html") if not sheet.proto.body.startswith("<style>")]


def test_text_that_scrolls_is_a_region_with_a_name(small_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = []
    for page in (EVICTION_MAP, WAVELETS):
        test = opened(small_run, monkeypatch, page, positions=["50", "150"])
        names += [re.findall(r'<div role="region" aria-label="([^"]*)" tabindex="0"', text) for text in sheets(test)]
    assert names == [["The text, shaded by what is kept"], ["The text of positions 50 to 149"]]


def test_the_text_is_shaded_as_it_stood_at_the_step(small_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test = opened(small_run, monkeypatch, EVICTION_MAP, step="200", layer="1", head="3")
    retention = analysis.open(small_run / "retention.nc")
    for count in (200, 90):
        test.slider(key="step").set_value(count).run()
        expected = analysis.plot.text_retention(titled(retention), policy="TreeKV", step=count - 1, layer=1, head=1)
        assert len(sheets(test)) == 1
        assert expected in sheets(test)[0]


def test_token_text_never_becomes_markup(small_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test = opened(small_run, monkeypatch, EVICTION_MAP)
    assert "&lt;/script&gt;&lt;img/src=" in sheets(test)[0]
    assert EVIL not in sheets(test)[0]


@pytest.mark.parametrize("view", ["Density", "Tree"])
def test_the_other_views_draw_the_same_step(small_run: Path, monkeypatch: pytest.MonkeyPatch, view: str) -> None:
    test = opened(small_run, monkeypatch, EVICTION_MAP, step="200")
    test.segmented_control(key="view").set_value(view).run()
    retention = analysis.open(small_run / "retention.nc")
    expected = {
        "Density": lambda: analysis.plot.density(titled(retention), step=199),
        "Tree": lambda: analysis.plot.tree(titled(retention), policy="TreeKV", step=199),
    }[view]()
    assert alternatives(test)[1:] == [expected.layout.meta["alt"]]
    assert not sheets(test)


def test_it_plays_to_the_end_and_stops(small_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test = opened(small_run, monkeypatch, EVICTION_MAP)
    assert test.slider(key="step").value == TOKENS
    test.button(key="play").click().run()
    stride = TOKENS // step_slider.FRAMES
    shown = [test.slider(key="step").value]
    while test.button(key="play").label == "Stop":
        test.run()
        shown.append(test.slider(key="step").value)
        assert len(shown) < 40
    assert shown[:3] == [stride, 2 * stride, 3 * stride]
    assert shown[-1] == TOKENS
    assert shown == sorted(shown)


def test_playing_can_be_stopped(small_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test = opened(small_run, monkeypatch, EVICTION_MAP)
    test.button(key="play").click().run()
    test.button(key="play").click().run()
    assert test.button(key="play").label == "Play"
    here = test.slider(key="step").value
    assert test.run().slider(key="step").value == here < TOKENS


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
