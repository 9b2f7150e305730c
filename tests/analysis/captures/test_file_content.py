"""Files that look like captures and cannot be any are refused when they are opened."""

import numpy as np
import pytest
import xarray as xr

import analysis
from analysis.captures.file_content import check_content
from treekv import TreeKVError


@pytest.fixture
def stored(captured, tmp_path):
    dataset = xr.load_dataset(captured.save(tmp_path / "capture.nc"), engine="h5netcdf")
    dataset.encoding = {}
    return dataset


def with_value(name, place, value):
    def change(dataset):
        values = dataset[name].values.copy()
        values[place] = value
        return dataset.assign({name: (dataset[name].dims, values)})

    return change


def with_attribute(name, value):
    return lambda dataset: dataset.assign_attrs({name: value})


IMPOSSIBLE = {
    "a query outside": (
        lambda x: x.assign_coords(query_position=np.arange(1000, 1005)), "query position 1004 is outside its 301 tokens"
    ),
    "a query before": (lambda x: x.assign_coords(query_position=np.arange(-5, 0)), "negative number -5"),
    "queries twice": (lambda x: x.assign_coords(query_position=[9, 9, 10, 11, 12]), "'query_position' do not ascend"),
    "no query": (lambda x: x.isel(query_position=slice(0, 0)), "dimension 'query_position' is empty"),
    "fractions of a query": (lambda x: x.assign_coords(query_position=np.arange(5) + 0.5), "not of whole numbers"),
    "no token": (lambda x: x.isel(position=slice(0, 0)), "dimension 'position' is empty"),
    "no layer": (lambda x: x.isel(layer=slice(0, 0)), "dimension 'layer' is empty"),
    "no channel": (lambda x: x.isel(channel=slice(0, 0)), "dimension 'channel' is empty"),
    "3 heads over 2": (lambda x: x.isel(query_head=slice(0, 3)), "3 query heads cannot share 2 KV heads"),
    "1 head over 2": (lambda x: x.isel(query_head=slice(0, 1)), "1 query heads cannot share 2"),
    "layers in another order": (lambda x: x.isel(layer=[1, 0]), "'layer' do not ascend"),
    "an unknown layer": (lambda x: x.assign_coords(layer=[0, 7]), "its layer 7 is none of the full-attention layers"),
    "keys of another order": (lambda x: x.assign(k=x.k.transpose("kv_head", "layer", ...)), "'k' has dimensions"),
    "keys without heads": (lambda x: x.assign(k=x.k.isel(kv_head=0)), "'k' has dimensions"),
    "keys of another size": (lambda x: x.assign(k=x.k.rename(channel="c").isel(c=slice(4))), "'k' has dimensions"),
    "keys as words": (lambda x: x.assign(k=x.k.astype(str)), "'k' is of type"),
    "whole keys": (lambda x: x.assign(k=x.k.astype(int)), "'k' is of type int64"),
    "NaN keys": (lambda x: x.assign(k=x.k * np.float16("nan")), "'k' has numbers that are not finite"),
    "one infinite value": (with_value("v", (1, 0, 7, 3), np.inf), "'v' has numbers that are not finite"),
    "no scaling": (with_value("scaling", 0, 0.0), "'scaling' has the number 0.0"),
    "NaN scaling": (with_value("scaling", 0, np.nan), "'scaling' has numbers that are not finite"),
    "a negative id": (with_value("token_id", 3, -1), "'token_id' has the negative number -1"),
    "model_layers cut": (with_attribute("model_layers", "[1,2"), "'model_layers' is not JSON"),
    "model_layers nested": (with_attribute("model_layers", "[" * 100_000), "'model_layers' is not JSON"),
    "model_layers of null": (with_attribute("model_layers", "null"), "'model_layers' is no list"),
    "model_layers of words": (with_attribute("model_layers", '[[0, "a", null]]'), "'model_layers' is no list"),
    "rotary of words": (with_attribute("rotary", '["a"]'), "'rotary' is no list of frequencies"),
    "rotary of NaN": (with_attribute("rotary", "[NaN]"), "'rotary' is no list of frequencies"),
    "too many frequencies": (with_attribute("rotary", str([0.5] * 5)), "5 frequencies, but keys have 8 channels"),
    "gradients without a scale": (lambda x: x.assign(g=x.q.rename(channel="value_channel")), "'g_scale' is missing"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "words"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_impossible_content_is_refused(stored, change, words):
    with pytest.raises(TreeKVError, match=r"the dataset cannot be a capture: .*capture the text again") as found:
        check_content(change(stored))
    assert words in str(found.value)


def test_what_a_capture_writes_is_accepted_and_a_bad_file_is_named(stored, captured, tmp_path):
    check_content(stored)
    stored.isel(query_position=slice(0, 0)).to_netcdf(tmp_path / "bad.nc", engine="h5netcdf")
    with pytest.raises(TreeKVError, match=r"bad.nc' cannot be a capture: its dimension 'query_position' is empty"):
        analysis.open(tmp_path / "bad.nc")
