"""Old names and arguments still work for one release, and the warning names the new ones."""

import pytest

import analysis
from analysis import deprecated
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


@pytest.mark.parametrize("old", sorted(deprecated.RENAMED))
def test_old_names_return_the_new_function_and_warn(old):
    new, _ = deprecated.RENAMED[old]
    with pytest.warns(DeprecationWarning, match=rf"analysis\.{old} is deprecated; use analysis\.{new}$") as caught:
        function = getattr(analysis, old)
    assert caught[0].filename == __file__
    assert old.startswith("open_") or function is getattr(analysis, new)


def test_old_functions_that_open_one_kind_refuse_others(captured, tmp_path):
    path = captured.save(tmp_path / "capture.nc")
    with pytest.warns(DeprecationWarning):
        open_capture, open_spectrum = analysis.open_capture, analysis.open_spectrum
    assert open_capture(path, device="cpu").tokens == captured.tokens
    with pytest.raises(TreeKVError, match="is a capture; expected a spectrum"):
        open_spectrum(path)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'analysis' has no attribute 'open_map'"):
        analysis.open_map  # noqa: B018
