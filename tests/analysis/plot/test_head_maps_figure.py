"""The maps of all heads: every tile is the map of its head, and the picture stays small."""

from __future__ import annotations

import numpy as np
import pytest

import analysis
from analysis import plot
from analysis.plot.head_maps_figure import _CELLS, _MOST, _NOT_READ
from tests.analysis.plot.conftest import THREE_MB
from treekv import TreeKVError


@pytest.mark.parametrize("policy", ["tree", "streaming"])
def test_every_tile_is_the_map_of_its_head(record, policy):
    figure = plot.head_maps(record, policy=policy)
    picture, markers = np.array(figure.data[0].z), figure.data[1]
    assert _CELLS // 2 > _MOST
    for (layer, head), x, y, words in zip(markers.customdata, markers.x, markers.y, markers.text):
        cells = analysis.retention_map(record, policy, layer, head, _MOST).values
        left, top = round(x - (cells.shape[1] - 1) / 2), round(y - (cells.shape[0] - 1) / 2)
        tile = picture[top : top + cells.shape[0], left : left + cells.shape[1]]
        assert (tile == np.where(np.isnan(cells), _NOT_READ, np.rint(100 * np.nan_to_num(cells)))).all()
        kept = analysis.kept_mask(record, record.attrs["steps"] - 1).sel(policy=policy, layer=layer, head=head)
        assert words == f"{100 * float(kept.mean()):.0f} %"
    assert len(markers.customdata) == record.sizes["layer"] * record.sizes["head"]


def test_a_large_model_stays_small_and_the_longer_side_lies_across(made_record):
    record = made_record(2000)
    record = record.isel(layer=np.arange(32) % 2, head=np.arange(8) % record.sizes["head"])
    record = record.assign_coords(layer=np.arange(32), head=np.arange(8))
    figure = plot.head_maps(record, policy="tree")
    assert len(figure.to_json()) < THREE_MB
    assert figure.layout.xaxis.title.text == "layer" and figure.layout.yaxis.title.text == "KV head"
    assert figure.layout.xaxis.ticktext[-1] == 31


def test_what_is_not_there_is_named(record):
    with pytest.raises(TreeKVError, match="policy 'h2o' is not in the record"):
        plot.head_maps(record, policy="h2o")
    with pytest.raises(TreeKVError, match="several policies"):
        plot.head_maps(record)
