"""Figures: what is drawn is what the data say, small enough for a page, with a text alternative."""

import itertools

import numpy as np
import pytest

import analysis
from analysis import binning, plot
from analysis.plot import theme
from treekv import TreeKVError

THREE_MB = 3_000_000


@pytest.fixture
def spectrum(made_spectrum):
    return made_spectrum(np.random.default_rng(1).lognormal(size=(9, 300)))


def test_spectrum_draws_one_line_a_band(spectrum):
    figure = plot.spectrum(spectrum)
    assert [trace.name.split(":")[0] for trace in figure.data] == spectrum["band"].values[::-1].tolist()
    mean = spectrum["amplitude"].mean(("layer", "head")).sel(band="D3").values
    line = next(trace for trace in figure.data if trace.name.startswith("D3"))
    borders = binning.edges(300, 128)
    np.testing.assert_allclose(line.y, [mean[a:b].mean() for a, b in itertools.pairwise(borders)], rtol=1e-5)
    assert line.x[0] == 5  # the middle of positions 4, 5, 6
    assert line.text[0] == " w4 w5 w6"
    assert figure.layout.yaxis.type == "log"
    assert "tokens" in figure.layout.xaxis.title.text


def test_the_legend_says_what_a_band_compares(run):
    haar = plot.spectrum(analysis.spectrum(run, level=3))
    assert [t.name for t in haar.data] == ["D1: 1 against 1", "D2: 2 against 2", "D3: 4 against 4", "A3: mean of 8"]
    smooth = plot.spectrum(analysis.spectrum(run, "db2", level=2))
    assert [t.name for t in smooth.data] == ["D1: 2 to 4", "D2: 4 to 8", "A2: above 8"]
    packets = plot.spectrum(analysis.spectrum(run, level=2, transform="packet"))
    assert [t.name for t in packets.data] == ["da: 2 to 2.67", "dd: 2.67 to 4", "ad: 4 to 8", "aa: above 8"]
    assert packets.layout.legend.title.text == "band: tokens per period"
    finer = plot.spectrum(analysis.spectrum(run, level=3, transform="packet"))
    assert finer.layout.legend.orientation == "h"  # below, where each two bands take a line of a narrow page
    assert finer.layout.height == packets.layout.height + 10 * 4


def test_the_second_line_says_how_the_sinks_were_treated(run):
    for sinks, words in (("separate", "taken out"), ("include", "left in")):
        for draw in (plot.spectrum, plot.coefficients):
            figure = draw(analysis.spectrum(run, level=3, sinks=sinks, transform="swt"))
            parts = figure.layout.title.subtitle.text.replace("<br>", " · ").split(" · ")
            assert {f"first 4 tokens {words}", "haar stationary"} <= set(parts)
    pooled = plot.spectrum(analysis.mean_spectrum([analysis.spectrum(run), analysis.spectrum(run)]))
    assert "mean of 2 texts" in pooled.layout.title.subtitle.text


def test_one_layer_and_head(spectrum):
    figure = plot.spectrum(spectrum, layer=1, head=2)
    mean = spectrum["amplitude"].sel(layer=1, head=2, band="D1").values
    np.testing.assert_allclose(figure.data[0].y[0], mean[:3].mean(), rtol=1e-5)
    assert "layer 1, head 2" in figure.layout.title.subtitle.text


def test_coefficients_keep_the_largest_of_each_run(made_spectrum):
    spectrum = made_spectrum(np.random.default_rng(1).lognormal(size=(4, 1500)))
    figure = plot.coefficients(spectrum, layer=0)
    (heatmap,) = figure.data
    mean = spectrum["coefficient"].sel(layer=0).mean("head").values
    assert heatmap.z.shape == heatmap.customdata.shape == (4, 500)
    assert list(heatmap.y) == ["A3", "D3", "D2", "D1"]
    np.testing.assert_allclose(heatmap.customdata, mean.reshape(4, 500, 3).max(-1), rtol=1e-5)
    np.testing.assert_allclose(heatmap.z, np.log10(heatmap.customdata), rtol=1e-4, atol=1e-5)
    assert heatmap.x[0] == 5


def test_silence_can_be_drawn(made_spectrum):
    silent = made_spectrum(np.zeros((4, 100)))
    assert np.isnan(plot.coefficients(silent).data[0].z).all()
    assert np.isnan(plot.spectrum(silent).data[0].y).all()


def test_eviction_map_of_one_head(made_record):
    record = made_record(60)
    heatmap = plot.eviction_map(record, policy="tree", layer=3, head=1).data[0]
    assert heatmap.z.dtype == np.uint8
    for step in (0, 30, 59):
        held = analysis.kept_mask(record, step).sel(policy="tree", layer=3, head=1).values
        np.testing.assert_array_equal(heatmap.z[step] == 100, held)
        np.testing.assert_array_equal(heatmap.z[step] == 0, ~held)
    assert list(heatmap.colorbar.ticktext) == ["evicted", "kept"]


def test_a_cell_of_one_head_is_kept_if_any_of_its_tokens_is(made_record):
    record = made_record(1200)
    fine = analysis.retention_map(record, "tree", 3, 1, max_cells=1200).values == 1
    figure = plot.eviction_map(record, policy="tree", layer=3, head=1)
    cells = fine.reshape(400, 3, 400, 3).any((1, 3))
    np.testing.assert_array_equal(figure.data[0].z, 100 * cells)
    assert "any of every 3" in figure.layout.xaxis.title.text
    assert list(figure.data[0].colorbar.ticktext) == ["all evicted", "any kept"]
    assert "any of those that share a cell" in figure.layout.meta["alt"]
    maps = plot.eviction_maps(record, policies=["tree"], layer=3, head=1)
    np.testing.assert_array_equal(maps.data[0].z, 100 * cells)
    assert "any of every 3" in maps.layout.title.subtitle.text and "any of those" in maps.layout.meta["alt"]
    assert list(maps.layout.coloraxis.colorbar.ticktext) == ["all evicted", "any kept"]
    averaged = plot.eviction_map(record, policy="tree", layer=3)
    assert "mean of every 3" in averaged.layout.xaxis.title.text
    assert averaged.data[0].colorbar.title.text == "kept" and "the share of" in averaged.layout.meta["alt"]


def test_eviction_map_of_all_heads_is_their_share(made_record):
    record = made_record(60)
    heatmap = plot.eviction_map(record, policy="streaming").data[0]
    share = analysis.kept_mask(record, 59).sel(policy="streaming").mean(("layer", "head")).values
    np.testing.assert_array_equal(heatmap.z[59], np.rint(100 * share))


@pytest.mark.parametrize(("tokens", "start", "size"), [(60, 0, 1), (1200, 0, 3), (1200, 101, 3), (1200, 900, 1)])
def test_the_hover_box_of_every_cell_has_its_tokens(made_record, tokens, start, size):
    record = made_record(tokens)
    for figure in (
        plot.eviction_map(record, policy="tree", start=start, stop=tokens),
        plot.retention_difference(record, policies=("tree", "streaming"), start=start, stop=tokens),
    ):
        heatmap, names = figure.data[0], figure.layout.xaxis2
        # In `hovertemplate` x is the name of the position on the axis of the picture: a second one, over the first.
        assert "<br>%{x}" in heatmap.hovertemplate
        assert (heatmap.xaxis, names.overlaying, names.matches) == ("x2", "x", "x")
        assert not names.showticklabels
        first = range(start, tokens, size)
        np.testing.assert_array_equal(names.tickvals, heatmap.x)
        np.testing.assert_array_equal(names.tickvals, np.array(first) + (size - 1) / 2)
        texts = ["".join(f" w{p}" for p in range(a, min(a + size, tokens))) for a in first]
        assert list(names.ticktext) == [f"\u201c{text}\u201d" for text in texts]


def test_a_text_that_is_not_known_is_not_named(made_record):
    record = made_record(60).drop_vars("token")
    for figure in (
        plot.eviction_map(record, policy="tree"),
        plot.retention_difference(record, policies=("tree", "streaming")),
    ):
        assert "%{x}" not in figure.data[0].hovertemplate
        assert figure.data[0].xaxis is None


def test_each_map_of_a_grid_names_its_own_columns(made_record):
    record = made_record(600)
    figure = plot.eviction_maps(record, policies=["tree", "streaming", "tree", "streaming"])
    maps = [trace for trace in figure.data if trace.type == "heatmap"]
    # Axes 1 to 6 are the places of the grid, of which the last two are empty.
    assert [heatmap.xaxis for heatmap in maps] == ["x7", "x8", "x9", "x10"]
    for number, heatmap in enumerate(maps, 1):
        names = figure.layout[heatmap.xaxis.replace("x", "xaxis")]
        assert names.overlaying == ("x" if number == 1 else f"x{number}")
        np.testing.assert_array_equal(names.tickvals, heatmap.x)
        assert names.ticktext[1] == "\u201c w3 w4 w5\u201d"
    shown = [figure.layout[f"xaxis{number}"].showticklabels for number in (2, 3)]
    assert shown == [True, True]  # nothing stands below them


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
