"""Spectra taken during the forward pass equal those of captures, in memory and in a folder."""

import hashlib
import json

import pytest
import xarray as xr

import analysis
from tests import tiny
from treekv import TreeKVError


@pytest.mark.parametrize(
    "settings",
    [{}, {"wavelet": "db2", "level": 3, "sinks": "include"}, {"transform": "swt", "level": 4, "sink_count": 2}],
)
def test_equals_the_spectrum_of_a_capture(sharp_llama, token_ids, captured, settings):
    lean = analysis.capture_spectrum(sharp_llama("treekv"), None, token_ids, queries=5, **settings)
    usual = analysis.spectrum(captured, **settings)
    assert set(lean.data_vars) == set(usual.data_vars)
    xr.testing.assert_allclose(lean, usual, rtol=1e-4)
    assert {name: lean.attrs[name] for name in usual.attrs} == usual.attrs
    assert lean.attrs["model_layers"] == captured.attrs["model_layers"]


def test_after_the_output_projection(sharp_llama, token_ids, captured):
    model = sharp_llama("treekv")
    lean = analysis.capture_spectrum(model, None, token_ids, queries=5, layers=[1], projected=True)
    xr.testing.assert_allclose(lean, analysis.spectrum(captured, model=model).sel(layer=[1]).assign(
        query_amplitude=lean["query_amplitude"]), rtol=1e-4)  # fmt: skip
    trends = analysis.trends(lean, resamples=99)
    assert trends.attrs["projected"] == 1


def test_in_half_precision(token_ids):
    model = tiny.llama().bfloat16()
    lean = analysis.capture_spectrum(model, None, token_ids, queries=3)
    usual = analysis.spectrum(analysis.capture(model, None, token_ids, queries=3))
    xr.testing.assert_allclose(lean, usual, rtol=1e-4)


def test_spectra_of_several_texts(llama, tmp_path):
    texts = {name: tiny.tokens(60, seed=seed)[0] for seed, name in enumerate("bac")}
    settings = dict(queries=3, max_tokens=50, level=2)
    spectra = analysis.capture_spectra(llama, None, texts, folder=tmp_path, **settings)
    for found, text in zip(spectra, texts.values(), strict=True):
        assert found.identical(analysis.capture_spectrum(llama, None, text, **settings))
    resumed = analysis.capture_spectra(llama, None, texts, folder=tmp_path, **settings)
    assert all(one.identical(other) for one, other in zip(spectra, resumed, strict=True))
    assert analysis.mean_spectrum(spectra).attrs["texts"] == 3
    with pytest.raises(TreeKVError, match="other settings"):
        analysis.capture_spectra(llama, None, texts, folder=tmp_path, **{**settings, "level": 3})


def test_a_folder_of_earlier_versions_is_resumed(llama, tmp_path):
    """The hashed content of a fingerprint is part of the file format."""
    ids = list(range(1, 61))
    found = analysis.capture_spectrum(llama, None, ids, queries=3, level=2, projected=True, sinks="separate")
    settings = [("level", 2), ("projected", True)]
    content = ["llama", ids, [57, 58, 59], [0, 1], "spectrum", settings]
    assert found.attrs["fingerprint"] == hashlib.sha256(json.dumps(content).encode()).hexdigest()
    captured = analysis.capture(llama, None, ids, queries=3)
    content[4:] = ["qkv", []]
    assert captured.attrs["fingerprint"] == hashlib.sha256(json.dumps(content).encode()).hexdigest()


def test_impossible_options_are_refused_before_the_model_runs(llama, token_ids):
    passes = []
    hook = llama.model.register_forward_hook(lambda *_: passes.append(1))
    with pytest.raises(TreeKVError, match="level is 20"):
        analysis.capture_spectrum(llama, None, token_ids, level=20)
    with pytest.raises(TreeKVError, match="text 'a': sink_count is 50"):
        analysis.capture_spectra(llama, None, {"a": token_ids[:50]}, queries=3, sink_count=50)
    hook.remove()
    assert not passes
