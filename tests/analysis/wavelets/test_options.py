"""Options of a transform, as one object or by name."""

import pytest
import xarray as xr

import analysis
from analysis import WaveletOptions
from treekv import TreeKVError


def test_options_and_keywords_are_the_same(captured):
    options = WaveletOptions("db2", 3, sinks="include", sink_count=2)
    by_name = analysis.spectrum(captured, "db2", 3, sinks="include", sink_count=2)
    assert analysis.spectrum(captured, options).identical(by_name)
    assert analysis.spectrum(captured, options, 2).identical(
        analysis.spectrum(captured, "db2", 2, sinks="include", sink_count=2)
    )
    xr.testing.assert_identical(
        analysis.coefficients(captured, 1, 300, options, mode="zero"),
        analysis.coefficients(captured, 1, 300, "db2", 3, sinks="include", sink_count=2, mode="zero"),
    )


def test_only_what_differs_from_the_defaults_is_listed():
    assert WaveletOptions().changed == {}
    assert WaveletOptions(level=4, sinks="separate").changed == {"level": 4, "sinks": "separate"}
    assert (WaveletOptions(sink_count=3).start, WaveletOptions(sink_count=3, sinks="separate").start) == (0, 3)


def test_a_folder_records_what_differs_from_the_first_version():
    """Its defaults were 8 levels without the sinks: what is recorded for them stays nothing."""
    assert WaveletOptions().recorded == {"level": "5 or less", "sinks": "include"}
    assert WaveletOptions(sinks="separate").recorded == {"level": "5 or less"}
    assert WaveletOptions(level=8, sinks="separate").recorded == {"level": 8}
    assert WaveletOptions(transform="packet", sinks="separate").recorded == {"transform": "packet"}
    assert WaveletOptions(transform="packet", level=2).recorded == {
        "transform": "packet", "level": 2, "sinks": "include",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sinks": "keep"}, "sinks is 'keep'"),
        ({"sink_count": 20}, "sink_count is 20; give 0 to 19"),
        ({"sink_count": -1}, "sink_count is -1"),
        ({"level": 5}, "level is 5"),
        ({"mode": "odd"}, "mode 'odd'"),
        ({"transform": "fft"}, "transform 'fft'"),
        ({"wavelet": "haa"}, "wavelet 'haa'"),
    ],
)
def test_impossible_options_are_refused(changes, words):
    with pytest.raises(TreeKVError, match=words):
        WaveletOptions(**changes).transform_for(20)
    with pytest.raises(TypeError, match="depth"):
        WaveletOptions.of(depth=3)
