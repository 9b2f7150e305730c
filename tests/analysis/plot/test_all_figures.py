"""All figures are small enough for a page, have a text alternative and refuse what does not exist."""

import numpy as np
import pytest

import analysis
from analysis import plot
from analysis.plot import theme
from tests.analysis.plot.conftest import THREE_MB
from treekv import TreeKVError


@pytest.mark.parametrize("tokens", [5000])
def test_long_texts_stay_small(made_record, made_spectrum, tokens):
    spectrum = made_spectrum(np.random.default_rng(1).lognormal(size=(9, tokens)))
    record = made_record(tokens)
    figures = [plot.spectrum(spectrum), plot.coefficients(spectrum), plot.eviction_map(record, policy="tree")]
    for figure in figures:
        assert len(figure.to_json()) < THREE_MB
        for trace in figure.data:
            assert len(trace.x) <= theme.MAX_CELLS


def test_every_figure_says_what_it_shows(spectrum, made_record):
    for figure in (
        plot.spectrum(spectrum),
        plot.coefficients(spectrum),
        plot.eviction_map(made_record(50), policy="tree"),
    ):
        assert len(figure.layout.meta["alt"]) > 80
        for title in (figure.layout.title, figure.layout.xaxis.title, figure.layout.yaxis.title):
            assert title.text


def test_text_alternatives_carry_the_numbers(made_spectrum, made_record):
    amplitude = np.ones((4, 400))
    amplitude[3, -64:] = 8
    assert "D1 8.0" in plot.spectrum(made_spectrum(amplitude)).layout.meta["alt"]
    amplitude[0, 123] = 100
    assert "A3 at 127" in plot.coefficients(made_spectrum(amplitude)).layout.meta["alt"]
    record = made_record(40)
    record["evicted_at"][:] = -1
    record["evicted_at"][..., :10] = 35
    assert "0 %, 100 %, 100 %, 100 %" in plot.eviction_map(record, policy="tree").layout.meta["alt"]


def test_token_text_cannot_inject_markup(spectrum):
    spectrum = spectrum.assign_coords(token=("position", ["<a href='x'>\n&"] * 300))
    for text in (*plot.spectrum(spectrum).data[0].text, *plot.coefficients(spectrum).data[0].text[0]):
        assert "<" not in text
        assert "\n" not in text


def test_what_is_not_there_is_named(spectrum, made_record):
    for draw in (plot.spectrum, plot.coefficients):
        with pytest.raises(TreeKVError, match=r"layer 9.*0, 1"):
            draw(spectrum, layer=9)
        with pytest.raises(TreeKVError, match=r"head 9.*0, 1, 2"):
            draw(spectrum, head=9)
    with pytest.raises(TreeKVError, match="several policies"):
        plot.eviction_map(made_record(20))
    with pytest.raises(TreeKVError, match="layer 9"):
        plot.eviction_map(made_record(20), policy="tree", layer=9)


def test_all_are_small_for_a_long_text(made_record):
    record = made_record(9000)
    size = {
        "density": len(plot.density(record).to_json()),
        "tree": len(plot.tree(record, policy="tree", start=8000, stop=8256).to_json()),
        "text": len(plot.text_retention(record, policy="tree", start=0, stop=8192)),
        "agreement": len(plot.agreement(analysis.agreement(record)).to_json()),
    }
    assert max(size.values()) < THREE_MB
    with pytest.raises(TreeKVError, match="at most 8192"):
        plot.text_retention(record, policy="tree")


def test_every_comparison_says_what_it_shows(captured, marked_up):
    lost = analysis.output_loss(captured, marked_up)
    for figure in (
        plot.mass_retained(lost),
        plot.output_error(lost),
        plot.bias(analysis.recency_bias(marked_up)),
        plot.retention_difference(marked_up, policies=("tree", "<b>window</b>")),
        plot.eviction_maps(marked_up),
    ):
        assert len(figure.layout.meta["alt"]) > 80
        assert figure.layout.title.text and figure.layout.xaxis.title.text
        assert "<b>" not in figure.layout.title.text


def test_what_is_outside_is_refused(spectrum, made_record):
    record = made_record(60)
    for draw in (
        lambda **zoom: plot.spectrum(spectrum, **zoom),
        lambda **zoom: plot.coefficients(spectrum, **zoom),
        lambda **zoom: plot.eviction_map(record, policy="tree", **zoom),
        lambda **zoom: plot.eviction_maps(record, **zoom),
        lambda **zoom: plot.density(record, **zoom),
    ):
        for zoom in (dict(start=50, stop=50), dict(start=-1), dict(stop=5000)):
            with pytest.raises(TreeKVError, match="start and stop must lie within positions"):
                draw(**zoom)
    with pytest.raises(TreeKVError, match="steps must lie within 0 to 60, got 5 to 61"):
        plot.eviction_map(record, policy="tree", steps=(5, 61))
    with pytest.raises(TreeKVError, match="no position from 40 on was read"):
        plot.density(record, step=30, start=40)
    with pytest.raises(TreeKVError, match="no policy to draw"):
        plot.eviction_maps(record, policies=[])
