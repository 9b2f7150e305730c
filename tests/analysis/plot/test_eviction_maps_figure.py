"""Maps have the cells of the record, and name the tokens of every cell."""

from __future__ import annotations

import numpy as np
import pytest

import analysis
from analysis import plot
from tests.analysis.plot.conftest import THREE_MB


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
    # Axes 1 to 4 are the places of the grid: two rows of two, without a hole.
    assert [heatmap.xaxis for heatmap in maps] == ["x5", "x6", "x7", "x8"]
    for number, heatmap in enumerate(maps, 1):
        names = figure.layout[heatmap.xaxis.replace("x", "xaxis")]
        assert names.overlaying == ("x" if number == 1 else f"x{number}")
        np.testing.assert_array_equal(names.tickvals, heatmap.x)
        assert names.ticktext[1] == "\u201c w3 w4 w5\u201d"
    assert all(figure.layout[f"xaxis{number}"].showticklabels for number in ("", 2, 3, 4))


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
    assert notes[:3] == ["A TreeKV 128", "B StreamingLLM 128", "C H2O 128"]
    assert set(notes[3:]) == {"not read<br>yet"}
    long = many.assign_coords(policy=["A StreamingLLM, budgets by head 1,024", *names[1:]])
    four = plot.eviction_maps(long)
    assert four.layout.annotations[0].text == "A StreamingLLM, budgets by<br>head 1,024"
    upper, lower = four.layout.yaxis.domain, four.layout.yaxis3.domain
    drawn = four.layout.height - four.layout.margin.t - four.layout.margin.b
    assert (upper[0] - lower[1]) * drawn > 2 * plot.theme.LINE_HEIGHT + 35  # its name and the tick labels above it
    line = plot.theme.LINE_HEIGHT
    wide = plot.eviction_maps(long, policies=[str(long["policy"].values[0]), *names[2:]])
    assert wide.layout.margin.t - short.layout.margin.t == wide.layout.height - short.layout.height == 2 * line


def test_many_maps_of_a_long_text_stay_small(made_record):
    record = made_record(5000)
    many = analysis.merge_retention(*(record.assign_coords(policy=[f"a{i}", f"b{i}"]) for i in range(4)))
    figure = plot.eviction_maps(many)
    assert len(figure.to_json()) < THREE_MB
    size = round(np.diff(figure.data[0].x)[0])
    assert f"mean of every {size} positions" in figure.layout.title.subtitle.text
