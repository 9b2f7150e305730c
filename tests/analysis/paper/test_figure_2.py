"""The paper's figure 2 is what the slow way gives: a capture of each window, each channel split by PyWavelets."""

import json

import numpy as np
import pytest
import torch

import analysis
from analysis.paper import figure2
from analysis.paper.figure_2 import last_contributions
from tests import tiny
from tests.reference.wavelets import components
from treekv import TreeKVError


@pytest.fixture
def texts():
    return {"one": tiny.tokens(700, seed=5)[0], "other": tiny.tokens(300, seed=6)[0]}


def slow(model, ids):
    """[band, position]: mean |component| over channels, heads and layers of what the last of `ids` sees."""
    captured = analysis.capture(model, None, ids, max_tokens=len(ids), queries=1)
    signals = [
        signal
        for layer in captured.layers
        for head in captured.contributions(layer, len(ids) - 1).double().numpy()
        for signal in head.T
    ]
    return np.mean([np.abs(components(signal, "haar", 5)) for signal in signals], axis=0)


@pytest.mark.parametrize("tokens", [100, 117])
def test_it_equals_each_channel_split_by_pywavelets(sharp_llama, texts, tokens):
    model = sharp_llama("treekv")
    found = figure2(model, None, texts, tokens=tokens, samples=4, batch=3)
    assert found["amplitude"].dims == ("band", "position")
    assert found["band"].values.tolist() == ["A5", "D5", "D4", "D3", "D2", "D1"]
    assert found["position"].values.tolist() == list(range(tokens))
    assert found["text"].values.tolist() == [0, 0, 1, 1]
    by_sample = []
    for text, start in zip(found["text"].values, found["start"].values):
        by_sample.append(slow(model, list(texts.values())[text][start : start + tokens]))
    np.testing.assert_allclose(found["query_amplitude"], by_sample, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(found["amplitude"], np.mean(by_sample, axis=0), rtol=1e-4, atol=1e-7)


def test_it_equals_the_spectrum_of_captures_with_the_sinks_inside(hybrid, texts):
    found = figure2(hybrid, None, texts, tokens=128, samples=3)
    several = [
        analysis.spectrum(
            analysis.capture(hybrid, None, list(texts.values())[text][start : start + 128], queries=1),
            level=5, sinks="include", sink_count=0,
        )
        for text, start in zip(found["text"].values, found["start"].values)
    ]  # fmt: skip
    expected = analysis.mean_spectrum(several)
    assert json.loads(found.attrs["layers"]) == expected["layer"].values.tolist() == [1, 3]
    np.testing.assert_allclose(found["amplitude"], expected["amplitude"].mean(("layer", "head")), rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(found["query_amplitude"], expected["query_amplitude"], rtol=1e-5, atol=1e-8)
    for name in ("level", "support", "low_frequency", "high_frequency"):
        assert found[name].values.tolist() == expected[name].values.tolist()
    for name in ("wavelet", "mode", "transform", "sinks", "sink_count", "projected"):
        assert found.attrs[name] == expected.attrs[name]


def test_half_precision_agrees_within_its_rounding(texts):
    model = tiny.llama()
    exact = figure2(model, None, texts, tokens=128)["amplitude"]
    half = figure2(model.to(torch.bfloat16), None, texts, tokens=128)["amplitude"]
    assert half.dtype == np.float32
    np.testing.assert_allclose(half.mean("position"), exact.mean("position"), rtol=0.05)


def test_contributions_are_computed_in_float32_for_each_query_head():
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, heads, 9, 4, generator=generator) for heads in (6, 2, 2))
    found = last_contributions(q, k, v, 0.5)
    for row in range(2):
        for head in range(6):
            weights = torch.softmax(0.5 * (k[row, head // 3] @ q[row, head, -1]), 0)
            torch.testing.assert_close(found[row, head], weights[:, None] * v[row, head // 3])
    assert last_contributions(q.bfloat16(), k.bfloat16(), v.bfloat16(), 0.5).dtype == torch.float32


def test_the_interval_is_that_of_the_mean_over_samples(texts):
    found = figure2(tiny.llama(), None, texts, tokens=96)
    low, high, mean = (found[f"amplitude{end}"].values for end in ("_low", "_high", ""))
    assert (low <= mean).all() and (mean <= high).all()
    error = found["query_amplitude"].std("query", ddof=1).values / np.sqrt(found.sizes["query"])
    # With ten samples a percentile interval is a little narrower than 1.96 standard errors on either side.
    assert 0.75 < np.median((high - low) / (2 * 1.96 * error)) < 1.05
    again = figure2(tiny.llama(), None, texts, tokens=96)
    assert again.equals(found)
    alone = figure2(tiny.llama(), None, texts, tokens=96, samples=1)
    assert np.isnan(alone["amplitude_low"]).all() and np.isnan(alone["amplitude_high"]).all()


def test_progress_counts_layers_of_all_windows(texts):
    seen = []
    figure2(tiny.llama(), None, texts, tokens=96, samples=5, batch=2, progress=lambda *call: seen.append(call))
    assert seen == [(2, 10), (4, 10), (6, 10), (8, 10), (9, 10), (10, 10)]


def test_it_is_saved_and_opened_again(texts, tmp_path):
    found = figure2(tiny.llama(), None, texts, tokens=96, samples=3)
    again = analysis.open(analysis.save(found, tmp_path / "figure2.nc"), "figure2")
    assert again.equals(found) and again.attrs == found.attrs


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(tokens=95), "tokens is 95.*at least 96"),
        (dict(tokens=640), "640 tokens exceed the 512 positions.*use at most 512 tokens"),
        (dict(tokens=400), "'other' has 300 tokens, fewer than a window of 400"),
        (dict(tokens=100, samples=11), "samples is 11.*10 windows"),
        (dict(layers=[7]), r"layer 7 cannot be captured.*\[0, 1\]"),
        (dict(batch=0), "batch is 0"),
        (dict(resamples=10), "resamples is 10"),
    ],
)
def test_bad_input_is_refused_before_the_model_runs(texts, changes, words):
    texts = {"one": texts["one"]} if changes.get("tokens") == 640 else texts
    model = tiny.llama()
    model.register_forward_pre_hook(lambda *_: pytest.fail("the model ran"))
    with pytest.raises(TreeKVError, match=words):
        figure2(model, None, texts, **{"tokens": 128, **changes})


def test_another_attention_is_refused(texts):
    with pytest.raises(TreeKVError, match=r"'eager'.*'treekv'"):
        figure2(tiny.llama("eager"), None, texts, tokens=128)
