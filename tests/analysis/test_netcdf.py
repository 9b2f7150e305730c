"""Files are complete or absent, and files of another origin are refused in one sentence."""

import gc
import os
import sys

import numpy as np
import pytest
import xarray as xr

import analysis
from analysis import netcdf
from treekv import TreeKVConfig, TreeKVError


@pytest.fixture
def spectrum(made_spectrum):
    return made_spectrum(np.random.default_rng(0).uniform(1, 2, (4, 300)))


@pytest.fixture
def path(spectrum, tmp_path):
    return analysis.save(spectrum, tmp_path / "spectrum.nc")


def sentence(path, expected="spectrum"):
    with pytest.raises(TreeKVError) as caught:
        analysis.open(path, expected)
    text = str(caught.value)
    assert "\n" not in text
    assert str(path) in text
    return text


def test_text_with_strange_characters_comes_back(spectrum, tmp_path):
    spectrum = spectrum.assign_coords(token=("position", ["\u0120\u00e9\U0001f333\n\"'<b>"] * 300))
    assert analysis.open(analysis.save(spectrum, tmp_path / "a.nc")).identical(spectrum)


def test_half_precision_comes_back(tmp_path):
    values = np.random.default_rng(0).normal(size=(7, 50)).astype(np.float16)
    variables = dict.fromkeys(netcdf.KINDS["treekv-capture"].required, (("a", "b"), values))
    dataset = xr.Dataset(variables, attrs={"format": "treekv-capture", "format_version": 1})
    again = netcdf.read(netcdf.write(dataset, tmp_path / "a.nc"), "treekv-capture")
    assert all(variable.dtype == np.float16 for variable in again.values())
    assert again.identical(dataset)


def test_every_truncation_is_noticed(path, tmp_path):
    whole = path.read_bytes()
    cut = tmp_path / "cut.nc"
    for share in (0.0, 0.001, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99):
        cut.write_bytes(whole[: int(share * len(whole))])
        assert "damaged" in sentence(cut), share


@pytest.mark.slow
# h5netcdf's destructor fails on a file whose constructor failed; the error itself is what the test is about.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_no_flipped_byte_changes_a_number_unnoticed(path, spectrum, tmp_path):
    whole = path.read_bytes()
    broken = tmp_path / "broken.nc"
    noticed = 0
    for place in np.linspace(0, len(whole) - 1, 50).astype(int):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        broken.write_bytes(damaged)
        try:
            found = analysis.open(broken)
        except TreeKVError:
            noticed += 1
        else:  # the byte belonged to unused space or to a label
            for name in spectrum.data_vars:
                np.testing.assert_array_equal(found[name].values, spectrum[name].values)
    assert noticed > 15


def test_a_damaged_file_leaves_nothing_behind_that_complains(path, tmp_path, monkeypatch):
    complaints = []
    monkeypatch.setattr(sys, "unraisablehook", complaints.append)
    broken = tmp_path / "broken.nc"
    refused = 0
    for seed in range(20):
        damaged, generator = bytearray(path.read_bytes()), np.random.default_rng(seed)
        for place in generator.integers(0, min(9000, len(damaged)), 20):
            damaged[place] = generator.integers(256)
        broken.write_bytes(damaged)
        try:
            analysis.open(broken)
        except TreeKVError:
            refused += 1
    gc.collect()
    assert refused > 5 and not complaints


def test_other_files_are_refused(path, captured, tmp_path):
    text = tmp_path / "notes.nc"
    text.write_text("not a netCDF file")
    assert "not a readable netCDF file" in sentence(text)
    assert "no file" in sentence(tmp_path / "absent.nc")
    assert "folder" in sentence(tmp_path)
    capture = captured.save(tmp_path / "capture.nc")
    assert "is a capture; expected a spectrum" in sentence(capture)
    assert "is a spectrum; expected a capture" in sentence(path, "capture")
    foreign = tmp_path / "weather.nc"
    xr.Dataset({"rain": ("day", [1.0, 2.0])}).to_netcdf(foreign, engine="h5netcdf")
    assert "netCDF file from elsewhere" in sentence(foreign)


def test_newer_and_incomplete_files_are_refused(spectrum, tmp_path):
    newer = netcdf.write(spectrum.assign_attrs(format_version=2), tmp_path / "newer.nc")
    assert "format version 2, newer than the 1" in sentence(newer)
    odd = netcdf.write(spectrum.assign_attrs(format_version="one"), tmp_path / "odd.nc")
    assert "'one'" in sentence(odd)
    partial = netcdf.write(spectrum.drop_vars("coefficient"), tmp_path / "partial.nc")
    assert "lacks 'coefficient'" in sentence(partial)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(path, spectrum, monkeypatch):
    before = path.read_bytes()

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(TreeKVError, match="No space left"):
        analysis.save(spectrum, path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["spectrum.nc"]


def test_paths_that_cannot_be_written_are_named(spectrum, tmp_path):
    with pytest.raises(TreeKVError, match=r"nowhere.*does not exist"):
        analysis.save(spectrum, tmp_path / "nowhere" / "a.nc")
    with pytest.raises(TreeKVError, match="is a folder"):
        analysis.save(spectrum, tmp_path)


@pytest.mark.slow
def test_a_file_of_another_kind_is_named(captured, tmp_path):
    spectrum = analysis.spectrum(captured, level=2)
    retention = analysis.simulate(captured, {"tree": TreeKVConfig(cache_size=32)})
    results = {
        "capture": (captured, "a capture"),
        "spectrum": (spectrum, "a spectrum"),
        "trends": (analysis.trends(spectrum, resamples=99), "a table of trends"),
        "retention": (retention, "a retention record"),
        "loss": (analysis.output_loss(captured, retention), "a table of losses"),
    }
    for kind, (result, title) in results.items():
        file = analysis.save(result, tmp_path / f"{kind}.nc")
        for expected, (_, wanted) in results.items():
            if expected != kind:
                assert sentence(file, expected) == f"{str(file)!r} is {title}; expected {wanted}"
