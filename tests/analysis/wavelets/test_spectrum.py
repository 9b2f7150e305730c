"""The spectrum of a capture against its slow definition."""

import numpy as np
import pytest
import pywt
import torch
import xarray as xr

import analysis
from tests.analysis.wavelets.sensitive import capture_with_gradients
from tests.reference import wavelets as reference
from treekv import TreeKVError


def slow_queries(captured, layer, head, wavelet, level, sinks, count, mode="symmetric", transform="dwt", output=None):
    """[query, bands, position], NaN where a query does not see: each query's own mean over channels."""
    last = max(captured.query_positions)
    start = count if sinks == "separate" else 0
    rows = []
    for t in captured.query_positions:
        contributions = captured.contributions(layer, t)[head]
        if output is not None:
            contributions = contributions @ output[head]
        row = reference.amplitude(contributions[start:].double().numpy(), wavelet, level, mode, transform)
        row = row[:, count - start :]
        rows.append(np.pad(row, [(0, 0), (0, last - t)], constant_values=np.nan))
    return np.stack(rows)


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({"level": 7}, 4),
        ({"level": 3}, 0),
        ({"wavelet": "db2", "level": 4, "mode": "periodization"}, 5),
        ({"level": 5, "sinks": "separate"}, 4),
        ({"level": 4, "mode": "zero", "sinks": "include"}, 3),
        ({"level": 3, "transform": "packet"}, 4),
        ({"level": 4, "transform": "swt"}, 4),
    ],
)
def test_amplitude_equals_its_definition(captured, settings, count):
    spectrum = analysis.spectrum(captured, **settings, sink_count=count)
    assert spectrum["amplitude"].dims == ("layer", "head", "band", "position")
    assert spectrum["position"].values.tolist() == list(range(count, 301))
    arguments = {"wavelet": "haar", "sinks": "include", **settings}
    expected = np.stack(
        [
            [slow_queries(captured, layer, head, count=count, **arguments) for head in range(4)]
            for layer in captured.layers
        ]
    )
    np.testing.assert_allclose(spectrum["amplitude"], np.nanmean(expected, axis=2), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(spectrum["query_std"], np.nanstd(expected, axis=2), rtol=1e-3, atol=2e-6)
    np.testing.assert_allclose(spectrum["query_amplitude"], expected.mean((0, 1)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("transform", ["dwt", "swt"])
def test_energy_equals_its_definition(captured, transform):
    spectrum = analysis.spectrum(captured, level=4, transform=transform, sinks="separate")
    for layer in captured.layers:
        each = [
            reference.energy(captured.contributions(layer, t)[2, 4:].double().numpy(), "haar", 4, transform=transform)
            for t in captured.query_positions
        ]
        np.testing.assert_allclose(spectrum["energy"].sel(layer=layer, head=2), np.mean(each, axis=0), rtol=1e-4)


def test_after_the_output_projection(captured, sharp_llama):
    model = sharp_llama("treekv")
    spectrum = analysis.spectrum(captured, level=3, model=model, sinks="separate")
    assert spectrum.attrs["projected"] == 1
    output = [block.self_attn.o_proj.weight.T.unflatten(0, (4, 8)) for block in model.model.layers]
    for layer, head in ((0, 1), (1, 3)):
        expected = slow_queries(captured, layer, head, "haar", 3, "separate", 4, output=output[layer])
        ours = spectrum["amplitude"].sel(layer=layer, head=head)
        np.testing.assert_allclose(ours, np.nanmean(expected, axis=0), rtol=1e-4, atol=1e-6)


def test_few_heads_at_a_time_change_nothing(captured, monkeypatch):
    plain = analysis.spectrum(captured)
    for numbers in (1, 301 * 8 * 3):
        monkeypatch.setattr("analysis.wavelets.spectrum._AT_ONCE", numbers)
        xr.testing.assert_allclose(analysis.spectrum(captured), plain, rtol=1e-5)


def test_labels(captured):
    spectrum = analysis.spectrum(captured)
    assert spectrum["band"].values.tolist() == ["A5", "D5", "D4", "D3", "D2", "D1"]
    assert spectrum["level"].values.tolist() == [5, 5, 4, 3, 2, 1]
    assert spectrum["position"].values.tolist() == list(range(4, 301))
    assert spectrum["token"].values.tolist() == captured.token_text[4:]
    assert spectrum["queries"].values.tolist() == [5] * 293 + [4, 3, 2, 1]
    assert spectrum["support"].values.tolist() == [32, 32, 16, 8, 4, 2]
    assert spectrum["high_frequency"].values.tolist()[-2:] == [0.25, 0.5]
    assert spectrum["query"].values.tolist() == captured.query_positions
    attrs = [spectrum.attrs[name] for name in ("sinks", "sink_count", "mode", "transform", "projected", "texts")]
    assert attrs == ["include", 4, "symmetric", "dwt", 0, 1]


def test_haar_amplitude_and_coefficient_differ_by_the_level(captured):
    spectrum = analysis.spectrum(captured)
    scaled = spectrum["amplitude"] * 2 ** (spectrum["level"] / 2)
    np.testing.assert_allclose(scaled.values, spectrum["coefficient"].values, rtol=1e-5)


def test_sinks_are_reported_apart_and_do_not_leak(captured):
    expected = torch.stack([captured.contributions(1, t)[:, :4].abs().mean(-1) for t in captured.query_positions]).mean(
        0
    )
    plain = analysis.spectrum(captured, sinks="separate")
    np.testing.assert_allclose(plain["sink_amplitude"].sel(layer=1), expected, rtol=1e-5)
    loud = analysis.Capture(**{**vars(captured), "v": [v.clone() for v in captured.v]})
    for v in loud.v:
        v[:, :4] *= 1000
    louder = analysis.spectrum(loud, sinks="separate")
    np.testing.assert_array_equal(louder["amplitude"], plain["amplitude"])
    np.testing.assert_allclose(louder["sink_amplitude"], plain["sink_amplitude"] * 1000, rtol=1e-5)
    included = [analysis.spectrum(one, sinks="include")["amplitude"] for one in (captured, loud)]
    low = [amplitude.isel(band=0, position=slice(0, 4)).mean() for amplitude in included]
    assert low[1] > 10 * low[0], "included sinks must leak into the positions that share a low coefficient"


def test_level_is_as_deep_as_the_shortest_query_allows(captured, llama, token_ids):
    short = analysis.capture(llama, None, token_ids, max_tokens=40, queries=5)
    assert analysis.spectrum(short, sinks="separate", sink_count=10).sizes["band"] == 5  # 26 positions: A4, D4 ... D1
    assert analysis.spectrum(captured).sizes["band"] == 6


def test_progress_counts_layers(captured):
    seen = []
    analysis.spectrum(captured, level=2, progress=lambda *call: seen.append(call))
    assert seen == [(1, 2), (2, 2)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"wavelet": "harr"}, "'harr'"),
        ({"level": 0}, "level is 0.*1 to 8"),
        ({"level": 9}, "level is 9.*1 to 8"),
        ({"sinks": 4}, "sinks is 4; give 'separate' or 'include'"),
        ({"sink_count": -1}, "sink_count is -1"),
        ({"sink_count": 296}, "sink_count is 296.*0 to 295"),
        ({"mode": "mirror"}, "'mirror'"),
        ({"transform": "dct"}, "'dct'"),
    ],
)
def test_bad_arguments_are_refused(captured, arguments, words):
    with pytest.raises(TreeKVError, match=words):
        analysis.spectrum(captured, **arguments)


def test_saved_and_opened_again(captured, tmp_path):
    spectrum = analysis.spectrum(captured)
    again = analysis.open(analysis.save(spectrum, tmp_path / "spectrum.nc"))
    assert again.identical(spectrum)


def test_coefficients_of_one_query(captured):
    found = analysis.coefficients(captured, 1, 300, level=3, sinks="separate")
    signal = captured.contributions(1, 300)[:, 4:].numpy()
    expected = pywt.wavedec(signal, "haar", mode="symmetric", level=3, axis=1)
    for band, values in zip(("A3", "D3", "D2", "D1"), expected):
        assert found[band].dims == ("head", f"index_{band}", "channel")
        np.testing.assert_allclose(found[band], values, atol=1e-5)
    mean = np.abs(found["D2"]).mean("channel").isel(index_D2=slice(0, 20))
    assert mean.shape == (4, 20)


@pytest.mark.parametrize("transform", ["dwt", "swt", "packet"])
def test_along_the_gradient_the_signal_is_one_channel(transform):
    captured = capture_with_gradients(tokens=101)
    found = analysis.spectrum(captured, weight="loss", level=3, transform=transform, sinks="separate")
    assert found["query"].values.tolist() == [96, 97, 98, 99], "the last token predicts nothing"
    for layer, head in ((0, 1), (1, 3)):
        rows = []
        for t in (96, 97, 98, 99):
            along = captured.contributions(layer, t)[head] @ captured.gradient(layer)[head, t]
            row = reference.amplitude(along[4:, None].double().numpy(), "haar", 3, transform=transform)
            rows.append(np.pad(row, [(0, 0), (0, 99 - t)], constant_values=np.nan))
        ours = found["amplitude"].sel(layer=layer, head=head)
        np.testing.assert_allclose(ours, np.nanmean(rows, axis=0), rtol=1e-3, atol=1e-7)
    assert (found.attrs["weight"], found["amplitude"].attrs["units"]) == ("loss", "nats")
    trends = analysis.trends(found, resamples=99, protocol="to the last token")
    assert set(trends["band"].values) == set(found["band"].values)
    with pytest.raises(TreeKVError, match="spectrum 1 has weight None, the first 'loss'"):
        analysis.mean_spectrum([found, analysis.spectrum(captured, level=3, transform=transform, sinks="separate")])


def test_what_has_no_loss_weighted_spectrum_is_refused(captured, sharp_llama):
    with pytest.raises(TreeKVError, match="no gradients of the loss"):
        analysis.spectrum(captured, weight="loss")
    run = capture_with_gradients(tokens=101)
    with pytest.raises(TreeKVError, match="weight is 'mass'; give 'loss'"):
        analysis.spectrum(run, weight="mass")
    with pytest.raises(TreeKVError, match="leave out model, or weight='loss'"):
        analysis.spectrum(run, weight="loss", model=sharp_llama("treekv"))
    with pytest.raises(TreeKVError, match="the only observed query is the text's last token"):
        analysis.spectrum(capture_with_gradients(tokens=60, queries=1), weight="loss")
