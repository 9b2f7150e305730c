"""Files of the version before analysis was divided into folders still open, and results from them are the same.

The files in tests/data were written at commit 84f9cc5 from a tiny Llama of one layer: a capture of 72 tokens with 3
observed queries, and from it the spectrum of level 2, its trends, a simulation of two policies after a prompt of 16
tokens, and their losses at queries 40 and 71.
"""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import analysis
from treekv import TreeKVConfig

DATA = Path(__file__).resolve().parent.parent / "data"


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """Opens one of the files."""
    folder = tmp_path_factory.mktemp("old")

    def open_old(kind):
        path = folder / f"{kind}.nc"
        path.write_bytes(gzip.decompress((DATA / f"{kind}.nc.gz").read_bytes()))
        return analysis.open(path, kind)

    return open_old


def test_capture(old):
    captured = old("capture")
    assert repr(captured) == "Capture(llama, 72 tokens, 1 layer, 9.2 kB)"
    assert captured.query_positions == [69, 70, 71] and captured.full_layers == [0]
    assert (captured.query_heads, captured.kv_heads, captured.k[0].shape[2]) == (4, 2, 8)


def test_spectrum(old):
    written, now = old("spectrum"), analysis.spectrum(old("capture"), level=2, sinks="separate")
    xr.testing.assert_allclose(now, written, rtol=1e-4)
    assert {name: now.attrs[name] for name in written.attrs if not name.endswith("_version")} == {
        name: value for name, value in written.attrs.items() if not name.endswith("_version")
    }


def test_trends(old):
    written, now = old("trends"), analysis.trends(old("spectrum"), resamples=99, protocol="to the last token")
    assert set(now.variables) == set(written.variables)
    for name in ("growth", "slope", "rank_correlation", "growth_by_head", "share_growing"):
        np.testing.assert_allclose(now[name], written[name], rtol=1e-6, err_msg=name)
    assert now.attrs["rules"] == written.attrs["rules"]


def test_retention_and_loss(old):
    written, captured = old("retention"), old("capture")
    configs = {name: TreeKVConfig.from_dict(config) for name, config in json.loads(written.attrs["configs"]).items()}
    assert list(configs) == ["tree", "h2o"]
    now = analysis.simulate(captured, configs, prompt=16)
    assert now.equals(written)
    xr.testing.assert_allclose(analysis.output_loss(captured, written, [40, 71]), old("loss"), rtol=1e-5)
