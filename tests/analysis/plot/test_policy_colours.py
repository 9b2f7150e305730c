"""A policy has one colour: in every figure that draws settings, whatever else is drawn and in whatever order."""

from __future__ import annotations

import colorsys
import re
from collections.abc import Callable, Iterator

import numpy as np
import plotly.graph_objects as go
import pytest
import xarray as xr

from analysis import plot
from analysis.evaluation.report import figures
from analysis.evaluation.report.aggregate import Estimate, Row
from analysis.plot.policy_colours import COLOURS, colours, policy_of
from app.export.dark import themed
from treekv import policies

TITLES = [policies.title(name) for name in ("tree", "streaming", "h2o", "full")]


def channels(colour: str) -> tuple[int, int, int]:
    if colour.startswith("#"):
        return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
    red, green, blue = (int(part) for part in re.findall(r"\d+", colour)[:3])
    return red, green, blue


def luminance(colour: str) -> float:
    """Relative luminance, as WCAG 2 defines it."""
    linear = [(c / 255 / 12.92) if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in channels(colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_every_policy_has_a_colour_of_its_own_that_is_legible_on_white() -> None:
    built_in = [name for name in policies.names() if type(policies.get(name)).__module__.startswith("treekv.")]
    assert list(COLOURS) == built_in  # in the one order
    assert len(set(COLOURS.values())) == len(COLOURS)
    for name, colour in COLOURS.items():
        assert 1.05 / (luminance(colour) + 0.05) > 4, name


@pytest.mark.parametrize(
    ("name", "policy"),
    [
        ("tree", "tree"),
        ("TreeKV", "tree"),
        ("A TreeKV 128", "tree"),
        ("TreeKV, recommended", "tree"),
        ("tree (real run)", "tree"),
        ("tree_left", "tree_left"),
        ("TreeKV, left 64", "tree_left"),
        ("F StreamingLLM 1,024", "streaming"),
        ("h2o paper", "h2o"),
        ("H2O, paper's allocation", "h2o"),
        ("SnapKV while decoding", "snapkv_decode"),
        ("snapkv at 0.5", "snapkv"),
        ("full cache", "full"),
        ("full", "full"),
        ("treehouse", None),
        ("mine", None),
    ],
)
def test_the_policy_is_found_in_the_names_that_figures_have(name: str, policy: str | None) -> None:
    assert policy_of(name) == policy


def test_further_settings_of_a_policy_keep_its_hue_and_are_lighter() -> None:
    found = colours(["A TreeKV 128", "B H2O 128", "C TreeKV 64", "D TreeKV 32", "mine", "yours", "mine"])
    first, _, second, third, mine, yours, _ = found
    assert len(set(found)) == 7 and {mine, yours}.isdisjoint(colours(TITLES))
    hues = [colorsys.rgb_to_hls(*(value / 255 for value in channels(one)))[0] for one in (first, second, third)]
    assert max(hues) - min(hues) < 0.01
    assert luminance(first) < luminance(second) < luminance(third)


def record(names: list[str]) -> dict[str, xr.Dataset | xr.DataArray]:
    """What the figures draw, of these settings."""
    shape, dims = (len(names), 2, 2, 40), ("policy", "layer", "head", "position")
    coords = {"policy": names, "layer": [0, 1], "head": [0, 1]}
    gone = np.full(shape, -1, np.int32)
    gone[..., 5:20] = 30
    retention = xr.Dataset({"evicted_at": (dims, gone)}, coords | {"position": np.arange(40)}, {"steps": 40})
    dims = ("policy", "layer", "head", "query")
    loss = xr.Dataset(
        {"mass": (dims, np.full((len(names), 2, 2, 3), 0.5)), "error": (dims, np.full((len(names), 2, 2, 3), 0.5))},
        coords | {"query": [37, 38, 39]},
    )
    memory = xr.DataArray(
        np.ones((len(names), 2), np.int64),
        dims=("policy", "context"),
        coords={"policy": names, "context": [512, 1024]},
        attrs={"batch": 1, "dtype": "bfloat16", "layers": 2},
    )
    return {"retention": retention, "loss": loss, "memory": memory}


def rows(names: list[str], budgets: tuple[int, ...]) -> list[Row]:
    estimate = Estimate(1.0, 0.9, 1.1, 2)
    return [
        Row(
            "m",
            "ppl",
            name,
            {},
            None if policy_of(name) == "full" else budget,
            "perplexity",
            estimate,
            None,
            {},
            0,
            False,
        )
        for name in names
        for budget in (budgets[:1] if policy_of(name) == "full" else budgets)
    ]


FIGURES: dict[str, Callable[[list[str]], go.Figure]] = {
    "density": lambda names: plot.density(record(names)["retention"]),
    "mass retained": lambda names: plot.mass_retained(record(names)["loss"]),
    "output error": lambda names: plot.output_error(record(names)["loss"]),
    "memory": lambda names: plot.memory(record(names)["memory"]),
    "quality against budget": lambda names: figures.quality(rows(names, (64, 128))),
    "quality ranked": lambda names: figures.quality(rows(names, (64,))),
}


def drawn(figure: go.Figure) -> Iterator[tuple[str | None, str]]:
    """The policy and colour of each line, and of each mark of several."""
    for trace in figure.data:
        if isinstance(trace.marker.color, (list, tuple)):
            yield from zip(map(policy_of, trace.y), trace.marker.color, strict=True)
        elif trace.name:
            yield policy_of(trace.name), trace.line.color


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("names", [TITLES, TITLES[::-1], ["full", "h2o", "tree"], ["A TreeKV 64", "B StreamingLLM 64"]])
def test_every_figure_draws_a_policy_in_its_colour(name: str, names: list[str]) -> None:
    found = list(drawn(FIGURES[name](names)))
    assert {policy for policy, _ in found} == {policy_of(each) for each in names}
    for policy, colour in found:
        assert channels(colour) == channels(COLOURS[str(policy)]), (policy, colour)


def test_colours_differ_on_a_dark_page_too() -> None:
    figure = themed(plot.memory(record(policies.names())["memory"]), dark=True)
    ground = luminance("#12161d")
    found = [trace.line.color for trace in figure.data]
    assert len({*map(channels, found)}) == len(policies.names())
    assert all((luminance(colour) + 0.05) / (ground + 0.05) > 3 for colour in found)
