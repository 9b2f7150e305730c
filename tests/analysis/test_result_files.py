"""One pair of functions saves and opens every kind of result."""

import pytest
import torch
import xarray as xr

import analysis
from treekv import TreeKVConfig, TreeKVError


def test_every_kind_comes_back(captured, tmp_path):
    spectrum = analysis.spectrum(captured, level=2)
    retention = analysis.simulate(captured, {"tree": TreeKVConfig(cache_size=32)})
    results = [
        spectrum,
        analysis.trends(spectrum, resamples=99),
        retention,
        analysis.output_loss(captured, retention, queries=[299]),
    ]
    for number, result in enumerate(results):
        path = analysis.save(result, tmp_path / f"{number}.nc")
        assert analysis.open(path).identical(result)
    again = analysis.open(analysis.save(captured, tmp_path / "capture.nc"), device="cpu")
    assert isinstance(again, analysis.Capture)
    assert torch.equal(again.k[1], captured.k[1].half()) and again.attrs == captured.attrs


def test_what_is_not_ours_is_refused(captured, tmp_path):
    with pytest.raises(TreeKVError, match=r"'format' is None; expected one of 'treekv-capture'"):
        analysis.save(xr.Dataset({"rain": ("day", [1.0])}), tmp_path / "weather.nc")
    assert not list(tmp_path.iterdir())
    xr.Dataset({"rain": ("day", [1.0])}).to_netcdf(tmp_path / "weather.nc", engine="h5netcdf")
    with pytest.raises(TreeKVError, match="a netCDF file from elsewhere; expected a result"):
        analysis.open(tmp_path / "weather.nc")
    with pytest.raises(TreeKVError, match=r"expected must be one of 'capture', 'spectrum'.*got 'picture'"):
        analysis.open(tmp_path / "weather.nc", "picture")
