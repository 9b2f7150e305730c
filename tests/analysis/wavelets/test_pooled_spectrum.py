"""The mean of several spectra."""

import numpy as np
import pytest

import analysis
from tests import tiny
from treekv import TreeKVError


@pytest.fixture
def texts(llama):
    return [analysis.capture(llama, None, tiny.tokens(150, seed=seed)[0], queries=3) for seed in range(3)]


def test_texts_are_averaged(texts):
    each = [analysis.spectrum(text) for text in texts]
    pooled = analysis.mean_spectrum(each)
    for name in ("amplitude", "coefficient", "energy", "sink_amplitude", "query_std"):
        np.testing.assert_allclose(pooled[name], np.mean([one[name] for one in each], axis=0), rtol=1e-5)
        assert pooled[name].dims == each[0][name].dims
    np.testing.assert_allclose(pooled["text_std"], np.std([one["amplitude"] for one in each], axis=0), rtol=1e-4)
    np.testing.assert_array_equal(pooled["query_amplitude"], np.concatenate([one["query_amplitude"] for one in each]))
    assert pooled["text"].values.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert "token" not in pooled.coords
    assert pooled.attrs["texts"] == 3
    assert analysis.mean_spectrum(each[:1]).identical(each[0])


def test_a_pooled_spectrum_is_saved(texts, tmp_path):
    pooled = analysis.mean_spectrum([analysis.spectrum(text) for text in texts])
    assert analysis.open(analysis.save(pooled, tmp_path / "spectrum.nc")).identical(pooled)


def test_only_spectra_alike_are_averaged(texts, llama):
    each = [analysis.spectrum(text) for text in texts]
    with pytest.raises(TreeKVError, match="no spectrum"):
        analysis.mean_spectrum([])
    with pytest.raises(TreeKVError, match="spectrum 1 has sinks 'separate'"):
        analysis.mean_spectrum([each[0], analysis.spectrum(texts[1], sinks="separate")])
    short = analysis.capture(llama, None, tiny.tokens(140)[0], queries=3)
    with pytest.raises(TreeKVError, match=r"spectrum 1 has other positions .*4 to 139, not 4 to 149"):
        analysis.mean_spectrum([each[0], analysis.spectrum(short)])
    with pytest.raises(TreeKVError, match="a mean already"):
        analysis.mean_spectrum([analysis.mean_spectrum(each), each[0]])
