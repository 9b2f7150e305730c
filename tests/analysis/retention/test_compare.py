"""The table of a comparison: means of what the other functions compute."""

import numpy as np
import pytest
import xarray as xr

import analysis
from tests import tiny
from treekv import TreeKVConfig, TreeKVError

CONFIGS = {
    "tree": TreeKVConfig(cache_size=32, sink_size=2, prefill="stream", block_size=8),
    "a window": TreeKVConfig(policy="streaming", cache_size=24),
    "everything": TreeKVConfig(policy="full"),
}


@pytest.fixture(scope="module")
def table(captured):
    return analysis.compare(captured, CONFIGS, prompt=100)


def test_numbers_are_means_of_what_analysis_computes(captured, table):
    retention = analysis.simulate(captured, CONFIGS, prompt=100)
    lost, uneven = analysis.output_loss(captured, retention), analysis.recency_bias(retention)
    assert table["policy"].values.tolist() == list(CONFIGS)
    assert table["kept"].values.tolist() == [32, 24, 301]
    for name, config in CONFIGS.items():
        row = table.sel(policy=name)
        assert row["mass"].item() == pytest.approx(lost["mass"].sel(policy=name).values.mean())
        assert row["error"].item() == pytest.approx(lost["error"].sel(policy=name).values.mean(), abs=1e-7)
        for column in ("distance", "gini", "ideal_gini"):
            assert row[column].item() == pytest.approx(uneven[column].sel(policy=name).values.mean())
        assert row["bytes"].item() == analysis.cache_bytes(captured, config, 301)
    assert table.attrs == {"tokens": 301, "prompt": 100, "model": "llama", "context": 301, "batch": 1,
                           "dtype": "bfloat16"}  # fmt: skip
    assert {column: table[column].attrs["units"] for column in ("kept", "distance", "bytes", "gini")} == {
        "kept": "tokens", "distance": "tokens", "bytes": "bytes", "gini": "1",
    }  # fmt: skip


def test_what_has_been_computed_is_used(captured, table, monkeypatch):
    retention = analysis.simulate(captured, CONFIGS, prompt=100)
    lost = analysis.output_loss(captured, retention)
    monkeypatch.setattr("analysis.retention.compare.simulate", None)
    monkeypatch.setattr("analysis.retention.compare.output_loss", None)
    again = analysis.compare(captured, CONFIGS, retention=retention, lost=lost)
    xr.testing.assert_identical(again, table)
    names = ["everything", "tree"]
    part = analysis.compare(captured, {name: CONFIGS[name] for name in names}, retention=retention, lost=lost)
    xr.testing.assert_identical(part, table.sel(policy=names))


def test_bytes_of_another_context_and_fewer_layers(captured):
    table = analysis.compare(captured, CONFIGS, layers=[1], tokens=4096, batch=4, dtype="float16")
    expected = [analysis.cache_bytes(captured, config, 4096, batch=4, dtype="float16") for config in CONFIGS.values()]
    assert table["bytes"].values.tolist() == expected
    lost = analysis.output_loss(captured, analysis.simulate(captured, CONFIGS, layers=[1]))
    np.testing.assert_allclose(table["mass"], lost["mass"].mean(("layer", "head", "query")), rtol=1e-6)


def test_too_few_tokens_for_a_tree_have_no_distance(captured):
    small = {"small": TreeKVConfig(policy="streaming", cache_size=5)}
    table = analysis.compare(captured, small)
    assert np.isnan(table["distance"]).all() and np.isnan(table["ideal_gini"]).all()
    assert not np.isnan(table["gini"]).any()


def test_settings_that_the_record_lacks_are_named(captured):
    retention = analysis.simulate(captured, {"tree": CONFIGS["tree"]})
    with pytest.raises(TreeKVError, match="no settings called 'a window'"):
        analysis.compare(captured, CONFIGS, retention=retention)


def test_what_evicts_several_at_once_shows_its_peak(llama):
    """So that budgets can be compared: between two evictions 90 to 99 tokens are held, 95 of 105 at the end."""
    captured = analysis.capture(llama, None, tiny.tokens(105)[0], queries=4)
    config = TreeKVConfig(policy="openvino", cache_size=100, sink_size=10, recent_size=20, interval=10)
    table = analysis.compare(captured, {"openvino": config, "tree": TreeKVConfig(cache_size=100)})
    assert table["kept"].values.tolist() == [99, 100]
    retention = analysis.simulate(captured, {"openvino": config})
    assert int((retention["evicted_at"].sel(layer=0, head=0) < 0).sum()) == 95
