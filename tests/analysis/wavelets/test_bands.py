"""Statistics of bands, for every transform, wavelet and mode, against PyWavelets band by band."""

import numpy as np
import pytest
import pywt
import torch

from analysis.wavelets import bands
from tests.reference import wavelets as reference
from treekv import TreeKVError

pytestmark = pytest.mark.filterwarnings("ignore:Level value of")


def signal(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("wavelet", ["haar", "db1", "db2", "sym4", "coif1", "bior2.2"])
@pytest.mark.parametrize("length", [64, 101])
@pytest.mark.parametrize("mode", pywt.Modes.modes)
@pytest.mark.parametrize("kind", ["dwt", "packet"])
def test_decimated_statistics_equal_zero_and_reconstruct(wavelet, length, mode, kind):
    x = signal(2, length, 3)
    transform = bands.transform_of(length, wavelet, mode=mode, transform=kind)
    found = transform.statistics(x)
    assert found.amplitude.shape == found.coefficient.shape == (2, len(transform.names), length)
    for row, contributions in enumerate(x):
        arguments = (contributions.double().numpy(), wavelet, transform.level, mode, kind)
        np.testing.assert_allclose(found.amplitude[row], reference.amplitude(*arguments), atol=5e-6)
        np.testing.assert_allclose(found.energy[row], reference.energy(*arguments), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("wavelet", ["haar", "db2", "sym4", "coif1"])
@pytest.mark.parametrize(("length", "mode"), [(64, "symmetric"), (101, "zero"), (77, "reflect"), (64, "antisymmetric")])
def test_stationary_statistics_equal_pywavelets(wavelet, length, mode):
    x = signal(2, length, 3)
    transform = bands.transform_of(length, wavelet, level=3, mode=mode, transform="swt")
    found = transform.statistics(x)
    for row, contributions in enumerate(x):
        arguments = (contributions.double().numpy(), wavelet, 3, mode, "swt")
        np.testing.assert_allclose(found.amplitude[row], reference.amplitude(*arguments), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found.energy[row], reference.energy(*arguments), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", bands.TRANSFORMS)
def test_haar_through_pywavelets_is_haar_in_torch(kind, monkeypatch):
    x = signal(2, 96, 4)
    transform = bands.transform_of(96, level=3, transform=kind)
    ours = transform.statistics(x)
    monkeypatch.setattr(bands, "_is_haar", lambda name: False)
    for mine, other in zip(ours, transform.statistics(x), strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-4)


def test_haar_amplitude_is_the_scaled_coefficient():
    from analysis.wavelets.haar import haar_wavedec

    x = signal(3, 100, 4)
    transform = bands.transform_of(100, level=5)
    found = transform.statistics(x)
    coefficients = haar_wavedec(x, 5, dim=-2)
    for number, level in enumerate(transform.levels):
        expected = coefficients[number].abs().mean(-1)[:, torch.arange(100) >> level]
        torch.testing.assert_close(found.coefficient[:, number], expected)
        torch.testing.assert_close(found.amplitude[:, number], expected * 2 ** (-level / 2))


@pytest.mark.parametrize("kind", ["dwt", "packet"])
def test_energies_add_up_to_the_signals(kind):
    x = signal(2, 128, 4)
    for wavelet in ("haar", "db3"):
        energy = bands.transform_of(128, wavelet, mode="periodization", transform=kind, level=3).statistics(x).energy
        torch.testing.assert_close(energy.sum(-1), x.square().mean(-1).sum(-1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", bands.TRANSFORMS)
@pytest.mark.parametrize("mode", ["symmetric", "periodization"])
@pytest.mark.parametrize("wavelet", ["haar", "db2", "sym4", "coif1", "bior2.2"])
def test_coefficients_are_aligned_with_their_positions(kind, mode, wavelet):
    """A single spike must be brightest where it is, in the finest band of every wavelet."""
    for where in (40, 41, 63):
        x = torch.zeros(1, 128, 1)
        x[0, where] = 1
        transform = bands.transform_of(128, wavelet, level=3 if kind != "packet" else 1, mode=mode, transform=kind)
        found = transform.statistics(x)
        brightest = found.coefficient[0, -1].argmax().item()
        assert abs(brightest - where) <= 2, (wavelet, where)


@pytest.mark.parametrize("kind", bands.TRANSFORMS)
@pytest.mark.parametrize("wavelet", ["haar", "db2"])
def test_signed_coefficients_are_those_of_the_statistics(kind, wavelet):
    x = signal(3, 64)
    transform = bands.transform_of(64, wavelet, level=2, transform=kind)
    signed = transform.coefficients(x)
    found = transform.statistics(x[..., None]).coefficient
    if kind == "swt":
        torch.testing.assert_close(torch.stack(signed, -2).abs(), found, atol=1e-5, rtol=1e-5)
        return
    for band, (mine, level) in enumerate(zip(signed, transform.levels, strict=True)):
        if wavelet == "haar":
            torch.testing.assert_close(mine.abs()[:, torch.arange(64) >> level], found[:, band])
        assert mine.shape[-1] >= 64 >> level
    if kind == "dwt":
        expected = pywt.wavedec(x.numpy(), wavelet, mode="symmetric", level=2)
        for mine, other in zip(signed, expected, strict=True):
            np.testing.assert_allclose(mine, other, atol=1e-5)


def test_a_slow_wave_is_in_a_low_band_and_a_fast_one_in_the_highest():
    n = torch.arange(256)
    fast = (1.0 - 2.0 * (n % 2))[None, :, None]
    slow = (1.0 - 2.0 * ((n // 64) % 2))[None, :, None]
    for wave, band in ((fast, "D1"), (slow, "D7")):
        transform = bands.transform_of(256, level=8)
        amplitude = transform.statistics(wave).amplitude
        loudest = transform.names[amplitude[0].mean(-1).argmax()]
        assert loudest == band
        torch.testing.assert_close(amplitude[0].sum(0), torch.ones(256))


def test_bands_cover_all_frequencies_once():
    octaves = bands.transform_of(300, level=3).frequencies
    assert octaves.tolist() == [[0, 1 / 16], [1 / 16, 1 / 8], [1 / 8, 1 / 4], [1 / 4, 1 / 2]]
    packets = bands.transform_of(300, level=2, transform="packet")
    assert packets.names == ["aa", "ad", "dd", "da"]
    assert packets.frequencies.tolist() == [[0, 1 / 8], [1 / 8, 1 / 4], [1 / 4, 3 / 8], [3 / 8, 1 / 2]]


@pytest.mark.parametrize("kind", bands.TRANSFORMS)
def test_a_cosine_is_loudest_in_the_band_of_its_frequency(kind):
    for frequency in (0.05, 0.2, 0.45):
        wave = torch.cos(2 * torch.pi * frequency * torch.arange(512))[None, :, None]
        transform = bands.transform_of(512, "sym8", level=2, transform=kind)
        energy = transform.statistics(wave).energy[0]
        low, high = transform.frequencies[energy.argmax()]
        assert low <= frequency <= high


def test_support_is_the_reach_of_a_coefficient():
    for wavelet in ("haar", "db2", "sym4"):
        transform = bands.transform_of(512, wavelet, level=3)
        silent = transform.coefficients(torch.zeros(1, 512))
        touched = [0] * 4
        for where in range(200, 320):
            x = torch.zeros(1, 512)
            x[0, where] = 1
            for band, (one, none) in enumerate(zip(transform.coefficients(x), silent, strict=True)):
                middle = one.shape[-1] // 2
                touched[band] += int((one - none)[0, middle].abs() > 1e-9)
        assert touched == transform.support


@pytest.mark.parametrize("name", ["harr", "morl", "", None, 3])
def test_unknown_wavelet_is_named(name):
    with pytest.raises(TreeKVError, match="discrete wavelet"):
        bands.checked_wavelet(name)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mode": "mirror"}, "'mirror'.*'symmetric'"),
        ({"transform": "fft"}, "'fft'.*'dwt', 'swt', 'packet'"),
        ({"level": 0}, "level is 0.*1 to 6"),
        ({"level": 7, "transform": "packet"}, "level is 7.*1 to 6"),
    ],
)
def test_bad_transforms_are_refused(changes, words):
    with pytest.raises(TreeKVError, match=words):
        bands.transform_of(100, **changes)


@pytest.mark.parametrize("level", [None, 1])
def test_a_text_without_any_level_is_said_to_be_too_short(level):
    with pytest.raises(TreeKVError, match="5 positions are too few for the dwt of 'db4', which has no level there"):
        bands.transform_of(5, wavelet="db4", level=level)
