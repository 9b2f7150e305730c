"""The spectrum of a capture against its slow definition."""

import numpy as np
import pytest
import torch

import analysis
from tests.reference import wavelets as reference
from treekv import TreeKVError


def slow_amplitude(run, layer, head, wavelet, level, sinks):
    """[level + 1, position]: each query's own mean over channels, then the mean over the queries that see
    it."""
    last = max(run.query_positions)
    rows = np.full((len(run.query_positions), level + 1, last + 1 - sinks), np.nan)
    for row, t in zip(rows, run.query_positions, strict=True):
        contributions = run.contributions(layer, t)[head, sinks:].numpy()
        row[:, : t + 1 - sinks] = reference.amplitude(contributions, wavelet, level)
    return np.nanmean(rows, axis=0)


@pytest.mark.parametrize(("wavelet", "level", "sinks"), [("haar", 7, 4), ("haar", 3, 0), ("db2", 4, 5)])
def test_amplitude_equals_its_definition(run, wavelet, level, sinks):
    spectrum = analysis.spectrum(run, wavelet, level=level, sinks=sinks)
    assert spectrum["amplitude"].dims == ("layer", "head", "band", "position")
    assert spectrum["amplitude"].shape == (2, 4, level + 1, 301 - sinks)
    for layer in run.layers:
        for head in range(run.query_heads):
            expected = slow_amplitude(run, layer, head, wavelet, level, sinks)
            ours = spectrum["amplitude"].sel(layer=layer, head=head).values
            np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-7)


def test_labels(run):
    spectrum = analysis.spectrum(run)
    assert spectrum["band"].values.tolist() == ["A8", "D8", "D7", "D6", "D5", "D4", "D3", "D2", "D1"]
    assert spectrum["level"].values.tolist() == [8, 8, 7, 6, 5, 4, 3, 2, 1]
    assert spectrum["position"].values.tolist() == list(range(4, 301))
    assert spectrum["token"].values.tolist() == run.token_text[4:]
    assert spectrum["queries"].values.tolist() == [5] * 293 + [4, 3, 2, 1]
    assert spectrum.attrs["sinks"] == 4


def test_haar_amplitude_and_coefficient_differ_by_the_level(run):
    spectrum = analysis.spectrum(run)
    scaled = spectrum["amplitude"] * 2 ** (spectrum["level"] / 2)
    np.testing.assert_allclose(scaled.values, spectrum["coefficient"].values, rtol=1e-5)


def test_sinks_are_reported_apart_and_do_not_leak(run):
    expected = torch.stack([run.contributions(1, t)[:, :4].abs().mean(-1) for t in run.query_positions]).mean(0)
    plain = analysis.spectrum(run)
    np.testing.assert_allclose(plain["sink_amplitude"].sel(layer=1), expected, rtol=1e-5)
    loud = analysis.Capture(**{**vars(run), "v": [v.clone() for v in run.v]})
    for v in loud.v:
        v[:, :4] *= 1000
    louder = analysis.spectrum(loud)
    np.testing.assert_array_equal(louder["amplitude"], plain["amplitude"])
    np.testing.assert_allclose(louder["sink_amplitude"], plain["sink_amplitude"] * 1000, rtol=1e-5)


def test_level_is_as_deep_as_the_shortest_query_allows(run, llama, token_ids):
    short = analysis.capture(llama, None, token_ids, max_tokens=40, queries=5)
    assert analysis.spectrum(short).sizes["band"] == 6  # 32 positions: A5, D5 ... D1
    assert analysis.spectrum(run).sizes["band"] == 9


def test_progress_counts_layers(run):
    seen = []
    analysis.spectrum(run, level=2, progress=lambda *call: seen.append(call))
    assert seen == [(1, 2), (2, 2)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"wavelet": "harr"}, "'harr'"),
        ({"level": 0}, "level is 0.*1 to 8"),
        ({"level": 9}, "level is 9.*1 to 8"),
        ({"sinks": -1}, "sinks is -1"),
        ({"sinks": 296}, "sinks is 296.*0 to 295"),
    ],
)
def test_bad_arguments_are_refused(run, arguments, words):
    with pytest.raises(TreeKVError, match=words):
        analysis.spectrum(run, **arguments)


def test_saved_and_opened_again(run, tmp_path):
    spectrum = analysis.spectrum(run)
    again = analysis.open_spectrum(analysis.save_spectrum(spectrum, tmp_path / "spectrum.nc"))
    assert again.identical(spectrum)
