"""Figures on a dark page, since those of `analysis.plot` are drawn for white paper."""

from __future__ import annotations

import colorsys
import json
import re
from collections.abc import Iterator
from typing import Any, Final

import plotly.graph_objects as go

# Colours of paper, ink and lines on a dark page; colours of data are lightened instead, see `_lighter`.
_ON_DARK: Final = {
    "white": "rgba(0,0,0,0)",
    "#ffffff": "rgba(0,0,0,0)",
    "#1f2430": "#e6e9f0",
    "#5b6372": "#aab2c0",
    "#e6e8ec": "#2c3340",
    "#f2f3f5": "#1d232e",
    "#c9ced6": "#3d4656",
}
_PAPER: Final = {"paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)"}
_HOVER: Final = {"bgcolor": "#262d39", "font": {"color": "#e6e9f0"}}
_COLOUR = re.compile(r"#[0-9a-f]{6}|rgba?\([^)]*\)|white|black", re.IGNORECASE)


def themed(figure: go.Figure, dark: bool) -> go.Figure:
    """The figure with a transparent background; on a dark page a copy with light ink too, whose colour scales do not
    change. A copy takes plotly about as long as the figure did."""
    if not dark:
        for name, colour in _PAPER.items():  # `update_layout` takes a hundred times as long
            figure.layout[name] = colour
        return figure
    figure = go.Figure({"data": [_relit(trace, True) for trace in _parts(figure, "data")], "layout": _layout(figure)})
    return figure.update_layout(hoverlabel=_HOVER, **_PAPER)


def _layout(figure: go.Figure) -> Any:
    return _relit(figure.to_plotly_json()["layout"], False)


def _parts(figure: go.Figure, name: str) -> list[Any]:
    return list(figure.to_plotly_json()[name])


def _relit(value: Any, data: bool, named_colour: bool = False) -> Any:
    """The same value with other colours under all keys that end in "color"."""
    if isinstance(value, dict):
        return {
            key: inner if key == "colorscale" else _relit(inner, data, key.lower().endswith("color"))
            for key, inner in value.items()
        }
    if isinstance(value, (list, tuple)) and value and (named_colour or isinstance(value[0], dict)):
        return [_relit(inner, data, named_colour) for inner in value]
    if named_colour and isinstance(value, str) and _COLOUR.fullmatch(value):
        return _ON_DARK.get(value.lower()) or (_lighter(value) if data else value)
    return value


def _lighter(colour: str) -> str:
    """The same hue, light enough for a dark page; the order of lightness does not change."""
    if colour.startswith("#"):
        channels = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    elif colour.startswith("rgb("):
        channels = [int(float(part)) for part in colour[4:-1].split(",")]
    else:
        return colour
    hue, lightness, saturation = colorsys.rgb_to_hls(*(channel / 255 for channel in channels))
    red, green, blue = colorsys.hls_to_rgb(hue, 0.45 + 0.5 * lightness, saturation)
    return f"rgb({round(255 * red)}, {round(255 * green)}, {round(255 * blue)})"


def dark_changes(figure: go.Figure) -> list[tuple[list[str | int], Any]]:
    """What a dark page has to change of a figure drawn for a light one: places in its JSON, with the new values."""
    light, dark = (json.loads(str(one.to_json())) for one in (figure, themed(figure, dark=True)))
    return [change for name in ("data", "layout") for change in _differences(light.get(name), dark.get(name), [name])]


def _differences(light: Any, dark: Any, place: list[str | int]) -> Iterator[tuple[list[str | int], Any]]:
    if isinstance(light, dict) and isinstance(dark, dict):
        for name, value in dark.items():
            yield from _differences(light.get(name), value, [*place, name])
    elif isinstance(light, list) and isinstance(dark, list) and len(light) == len(dark):
        for number, (one, other) in enumerate(zip(light, dark, strict=True)):
            yield from _differences(one, other, [*place, number])
    elif light != dark:
        yield place, dark
