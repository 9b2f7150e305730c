"""A stretch of a figure is the same figure of that stretch."""

from __future__ import annotations

import numpy as np
import pytest

import analysis
from analysis import plot
from treekv import TreeKVError

THREE_MB = 3_000_000


@pytest.fixture
def spectrum(made_spectrum):
    return made_spectrum(np.random.default_rng(1).lognormal(size=(9, 1000)))


def test_a_stretch_of_the_wavelet_figures_is_drawn_finer(spectrum):
    whole, part = plot.spectrum(spectrum), plot.spectrum(spectrum, start=100, stop=180)
    mean = spectrum["amplitude"].mean(("layer", "head")).sel(band="D1", position=slice(100, 179)).values
    np.testing.assert_allclose(part.data[0].y, mean, rtol=1e-5)  # one point a position
    assert list(part.data[0].x) == list(range(100, 180)) and len(whole.data[0].x) == 125
    heat = plot.coefficients(spectrum, start=100, stop=180).data[0]
    expected = spectrum["coefficient"].mean(("layer", "head")).sel(position=slice(100, 179)).values
    np.testing.assert_allclose(heat.customdata, expected, rtol=1e-6)
    assert heat.text[0][0] == " w100"


def test_a_stretch_of_the_map_is_drawn_cell_by_cell(made_record):
    record = made_record(1200)
    figure = plot.eviction_map(record, policy="tree", start=400, stop=500, steps=(450, 700))
    heat = figure.data[0]
    assert np.asarray(heat.z).shape == (250, 100)
    for row, step in ((0, 450), (60, 510), (249, 699)):
        share = analysis.kept_mask(record, step).sel(policy="tree").mean(("layer", "head")).values[400:500]
        np.testing.assert_array_equal(heat.z[row], np.rint(100 * share))
    assert figure.layout.xaxis.range == (399.5, 499.5) and figure.layout.yaxis.range == (699.5, 449.5)
    assert "positions 400 to 499, steps 450 to 699" in figure.layout.title.subtitle.text
    assert "stretch from position 400 to 499" in figure.layout.meta["alt"]
    coarse = plot.eviction_map(record, policy="tree", steps=(600, 1200)).data[0]
    fine = analysis.retention_map(record, "tree", max_cells=1200).values[600:1200]
    seen = ~np.isnan(fine)
    cells = [
        [fine[2 * r : 2 * r + 2, 3 * c : 3 * c + 3][seen[2 * r : 2 * r + 2, 3 * c : 3 * c + 3]].mean() for c in (0, 99)]
        for r in (0, 299)
    ]
    np.testing.assert_allclose(np.asarray(coarse.z)[np.ix_([0, 299], [0, 99])], 100 * np.array(cells), atol=0.51)


def test_a_stretch_of_the_density(made_record):
    record = made_record(400)
    figure = plot.density(record, step=300, start=200, stop=291)
    share = 100 * analysis.kept_mask(record, 300).sel(policy="tree").mean(("layer", "head")).values
    line = figure.data[0]
    assert (line.x[0], line.y[0]) == (11, share[290])  # distances 10 to 100; the axis counts the newest as 1
    assert 90 < line.x[-1] <= 101
    assert "distance from the newest, 10 to 100" in figure.layout.meta["alt"]
    assert "positions 200 to 290" in figure.layout.title.subtitle.text
    assert "positions" not in plot.density(record, step=300).layout.title.subtitle.text
    left, right = figure.layout.xaxis.range
    ticks = np.log10(figure.layout.xaxis.tickvals)
    assert len(ticks) > 1 and (ticks > left).all() and (ticks < right).all()
    one = plot.density(record, step=300, start=250, stop=251)
    assert list(one.data[0].y) == [share[250]]


def test_maps_of_several_policies_share_one_scale(made_record):
    record = made_record(60)
    figure = plot.eviction_maps(record, policies=["streaming", "tree"], layer=3)
    maps = [trace for trace in figure.data if trace.type == "heatmap"]
    for heatmap, name in zip(maps, ("streaming", "tree")):
        np.testing.assert_array_equal(heatmap.z, plot.eviction_map(record, policy=name, layer=3).data[0].z)
        assert heatmap.coloraxis == "coloraxis"
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (0, 100)
    assert {axis.matches for axis in figure.select_xaxes() if axis.plotly_name != "xaxis"} == {"x"}
    assert len({heatmap.xaxis for heatmap in maps}) == 2
    for heatmap in maps:
        assert figure.layout["xaxis" + heatmap.xaxis[1:]].ticktext[7] == "\u201c w7\u201d"
    titles = [note.text for note in figure.layout.annotations]
    assert titles[:2] == ["streaming", "tree"]
    for name in ("streaming", "tree"):
        quarters = plot.eviction_map(record, policy=name, layer=3).layout.meta["alt"].split("kept to ")[1][:-1]
        assert f"{name} {quarters}" in figure.layout.meta["alt"]
    assert len(plot.eviction_maps(record).select_traces("heatmap").__iter__().__next__().x) == 60


def test_maps_abreast_have_names_in_short_lines_and_room_for_them(made_record):
    record = made_record(60)
    names = ["A TreeKV 128", "B StreamingLLM 128", "C H2O 128", "D TOVA 128"]
    many = analysis.merge_retention(*(record.assign_coords(policy=names[i : i + 2]) for i in (0, 2)))
    two, three, short = (
        plot.eviction_maps(many, policies=some) for some in (names[:2], names[:3], [names[0], *names[2:]])
    )
    assert [note.text for note in two.layout.annotations if note.text != "not read yet"] == names[:2]
    notes = [note.text for note in three.layout.annotations]
    assert notes[:3] == ["A TreeKV 128", "B StreamingLLM<br>128", "C H2O 128"]
    assert set(notes[3:]) == {"not read<br>yet"}
    line = plot.theme.LINE_HEIGHT
    assert three.layout.margin.t - short.layout.margin.t == three.layout.height - short.layout.height == line


def test_many_maps_of_a_long_text_stay_small(made_record):
    record = made_record(5000)
    many = analysis.merge_retention(*(record.assign_coords(policy=[f"a{i}", f"b{i}"]) for i in range(4)))
    figure = plot.eviction_maps(many)
    assert len(figure.to_json()) < THREE_MB
    size = round(np.diff(figure.data[0].x)[0])
    assert f"mean of every {size} positions" in figure.layout.title.subtitle.text


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
