"""What all figures share."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.plot import theme
from treekv import TreeKVError


def test_every_line_up_to_six_has_a_dash_of_its_own() -> None:
    assert len({theme.dash(number) for number in range(6)}) == 6
    assert theme.dash(6) == theme.dash(0) == "solid"


def test_colours_go_from_dark_to_bright() -> None:
    def brightness(colour: str) -> float:
        red, green, blue = (int(part) for part in colour[4:-1].split(","))
        return 0.299 * red + 0.587 * green + 0.114 * blue

    found = [brightness(colour) for colour in theme.ordered_colours(7)]
    assert found == sorted(found) and found[-1] < 220  # legible on white


def test_token_text_is_one_harmless_line_of_limited_length() -> None:
    assert theme.shown("a\n\t<b>&") == "a\u23ce\u21e5&lt;b&gt;&amp;"
    assert theme.shown("x" * 41) == "x" * 39 + "\u2026"
    assert theme.shown("x" * 40) == "x" * 40


def test_a_subtitle_is_wrapped_between_its_parts() -> None:
    figure = theme.figure("title", " \u00b7 ".join(["part of a subtitle"] * 6), "alt")
    lines = figure.layout.title.subtitle.text.split("<br>")
    assert len(lines) == 2 and all(len(line) <= theme.LINE for line in lines)
    assert figure.layout.height == 480 + theme.LINE_HEIGHT
    assert figure.layout.meta["alt"] == "alt"


def test_selections_are_described_and_stretches_are_those_asked_for(made_spectrum) -> None:
    spectrum = made_spectrum(np.ones((5, 40)))
    picked, words = theme.chosen(spectrum, 1, None)
    assert picked["layer"].values.tolist() == [1] and words == "layer 1, mean of 3 heads"
    first = int(spectrum["position"].values[0])
    part = theme.stretch(spectrum, first + 3, first + 7)
    assert part["position"].values.tolist() == [first + 3, first + 4, first + 5, first + 6]
    assert theme.stretch(spectrum, None, None) is spectrum
    with pytest.raises(TreeKVError, match="there is no head 9; choose one of 0, 1, 2"):
        theme.chosen(spectrum, None, 9)


@pytest.mark.parametrize(
    ("lowest", "highest"), [(1e-4, 3.0), (0.02, 0.3), (0.03, 0.09), (4.0, 4.4), (1.0, 1.0), (0.0, 5.0)]
)
def test_a_logarithmic_axis_has_several_labels(lowest: float, highest: float) -> None:
    ticks = theme.log_ticks(lowest, highest)
    inside = [value for value in ticks.get("tickvals", []) if 0.8 * lowest <= value <= 1.25 * highest]
    assert ticks == {"dtick": 1} or len(inside) >= 2
    assert len(inside) < 14


def test_a_grid_of_few_layers_has_room_for_the_title_of_its_axis() -> None:
    assert [theme.grid_height(layers) for layers in (2, 4, 30, 80)] == [360, 360, 770, 900]


@pytest.mark.parametrize(("lowest", "highest"), [(1.0, 1.3), (1.0, 2.4), (1.0, 7.0), (0.8, 40.0), (3e-5, 9e-5)])
def test_a_logarithmic_axis_has_a_few_labels(lowest: float, highest: float) -> None:
    shown = [value for value in theme.log_ticks(lowest, highest)["tickvals"] if lowest <= value <= highest]
    assert 2 <= len(shown) <= 5
