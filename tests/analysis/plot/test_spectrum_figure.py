"""The spectrum's lines are its amplitudes, and the legend says what a band compares."""

from __future__ import annotations

import itertools

import numpy as np

import analysis
from analysis import binning, plot
from analysis.plot import theme


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


def test_the_legend_says_what_a_band_compares(captured):
    haar = plot.spectrum(analysis.spectrum(captured, level=3))
    assert [t.name for t in haar.data] == [
        "D1: adjacent tokens", "D2: adjacent 2-token averages", "D3: adjacent 4-token averages", "A3: 8-token average",
    ]  # fmt: skip
    smooth = plot.spectrum(analysis.spectrum(captured, "db2", level=2))
    assert [t.name for t in smooth.data] == ["D1: 2 to 4", "D2: 4 to 8", "A2: above 8"]
    packets = plot.spectrum(analysis.spectrum(captured, level=2, transform="packet"))
    assert [t.name for t in packets.data] == ["da: 2 to 2.67", "dd: 2.67 to 4", "ad: 4 to 8", "aa: above 8"]
    assert packets.layout.legend.title.text == "band: tokens per period"
    finer = plot.spectrum(analysis.spectrum(captured, level=3, transform="packet"))
    assert finer.layout.legend.orientation == "h"  # below, where each two bands take a line of a narrow page
    assert finer.layout.height == packets.layout.height + 2 * theme.LINE_HEIGHT


def test_the_second_line_says_how_the_sinks_were_treated(captured):
    for sinks, words in (("separate", "taken out"), ("include", "left in")):
        for draw in (plot.spectrum, plot.coefficients):
            figure = draw(analysis.spectrum(captured, level=3, sinks=sinks, transform="swt"))
            parts = figure.layout.title.subtitle.text.replace("<br>", " · ").split(" · ")
            assert {f"first 4 tokens {words}", "haar stationary"} <= set(parts)
    pooled = plot.spectrum(analysis.mean_spectrum([analysis.spectrum(captured), analysis.spectrum(captured)]))
    assert "mean of 2 texts" in pooled.layout.title.subtitle.text


def test_one_layer_and_head(spectrum):
    figure = plot.spectrum(spectrum, layer=1, head=2)
    mean = spectrum["amplitude"].sel(layer=1, head=2, band="D1").values
    np.testing.assert_allclose(figure.data[0].y[0], mean[:3].mean(), rtol=1e-5)
    assert "layer 1, head 2" in figure.layout.title.subtitle.text


def test_a_stretch_of_the_wavelet_figures_is_drawn_finer(made_spectrum):
    spectrum = made_spectrum(np.random.default_rng(1).lognormal(size=(9, 1000)))
    whole, part = plot.spectrum(spectrum), plot.spectrum(spectrum, start=100, stop=180)
    mean = spectrum["amplitude"].mean(("layer", "head")).sel(band="D1", position=slice(100, 179)).values
    np.testing.assert_allclose(part.data[0].y, mean, rtol=1e-5)  # one point a position
    assert list(part.data[0].x) == list(range(100, 180)) and len(whole.data[0].x) == 125
    heat = plot.coefficients(spectrum, start=100, stop=180).data[0]
    expected = spectrum["coefficient"].mean(("layer", "head")).sel(position=slice(100, 179)).values
    np.testing.assert_allclose(heat.customdata, expected, rtol=1e-6)
    assert heat.text[0][0] == " w100"


def test_spread_is_one_standard_deviation(captured):
    alone = analysis.spectrum(captured, level=3)
    figure = plot.spectrum(alone, layer=1, head=2, spread=True, start=200, stop=240)
    shade = next(trace for trace in figure.data if trace.fill == "toself" and trace.legendgroup == "D2")
    picked = alone.sel(layer=1, head=2, band="D2", position=slice(200, 239))
    mean, deviation = picked["amplitude"].values, picked["query_std"].values
    np.testing.assert_allclose(shade.y[:40], mean + deviation, rtol=1e-5)
    expected = np.where(deviation < mean, mean - deviation, mean / 10)[::-1]
    np.testing.assert_allclose(shade.y[40:], np.maximum(expected, mean.min() / 100), rtol=1e-5)
    assert "deviation over queries" in figure.layout.legend.title.text
    two = plot.spectrum(analysis.mean_spectrum([alone, alone * 3]), spread=True)
    assert "deviation over texts" in two.layout.legend.title.text
    assert not [trace for trace in plot.spectrum(alone).data if trace.fill]


def test_one_tooltip_has_all_bands_and_the_tokens_once(spectrum):
    figure = plot.spectrum(spectrum)
    assert figure.layout.hovermode == "x unified"
    words = [trace.hovertemplate for trace in figure.data]
    assert ["%{text}" in template for template in words] == [True] + [False] * (len(words) - 1)
    bands = [str(band) for band in spectrum["band"].values][::-1]
    assert all(f"{band}: %{{y" in template for band, template in zip(bands, words))
