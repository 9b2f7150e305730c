"""Old names and arguments still work for one release, and the warning names the new ones."""

import pytest

import analysis
from treekv import TreeKVError


def test_keep_spectrum_is_capture_spectrum(llama, token_ids, tmp_path):
    expected = analysis.capture_spectrum(llama, None, token_ids, queries=3, level=2)
    with pytest.warns(DeprecationWarning, match=r"use analysis\.capture_spectrum"):
        old = analysis.capture(llama, None, token_ids, queries=3, keep="spectrum", level=2)
    assert old.identical(expected)
    with pytest.warns(DeprecationWarning, match=r"use analysis\.capture_spectra"):
        (old,) = analysis.capture_many(llama, None, [token_ids], queries=3, keep="spectrum", level=2, folder=tmp_path)
    assert old.identical(expected)


def test_what_cannot_be_kept_is_refused(llama, token_ids):
    with pytest.raises(TreeKVError, match="keep is 'all'"):
        analysis.capture(llama, None, token_ids, keep="all")
    with pytest.raises(TreeKVError, match="'level' is a setting of the spectrum"):
        analysis.capture(llama, None, token_ids, level=3)
    with pytest.warns(DeprecationWarning), pytest.raises(TreeKVError, match="level is 20"):
        analysis.capture(llama, None, token_ids, keep="spectrum", level=20)
    with pytest.raises(TypeError, match="levels"):
        analysis.capture(llama, None, token_ids, levels=3)
