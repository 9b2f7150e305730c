"""The Haar transform in torch against PyWavelets."""

import numpy as np
import pytest
import pywt
import torch

from analysis import wavelets
from tests.reference import wavelets as reference
from treekv import TreeKVError

LENGTHS = [1, 2, 3, 4, 5, 37, 256, 1001, 4095, 4096]


def signal(*shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def levels(length):
    return sorted({0, 1, 2, pywt.dwt_max_level(length, "haar")})


CASES = [(length, level) for length in LENGTHS for level in levels(length)]
pytestmark = pytest.mark.filterwarnings("ignore:Level value of")  # levels beyond PyWavelets' advice are tried too


@pytest.mark.parametrize(("length", "level"), CASES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_coefficients_equal_pywavelets(length, level, dtype, tolerance):
    x = signal(3, length, dtype=dtype)
    ours = wavelets.haar_wavedec(x, level)
    theirs = pywt.wavedec(x.numpy(), "haar", mode="symmetric", level=level)
    assert len(ours) == level + 1
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.dtype == dtype
        np.testing.assert_allclose(mine.numpy(), other, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_half_and_close(dtype):
    x = signal(2, 64, dtype=dtype)
    for mine, exact in zip(wavelets.haar_wavedec(x, 3), wavelets.haar_wavedec(x.double(), 3), strict=True):
        assert mine.dtype == dtype
        torch.testing.assert_close(mine.double(), exact, atol=0.06, rtol=0.02)


@pytest.mark.parametrize("dim", [0, 1, 2, -1, -3])
def test_any_dimension(dim):
    x = signal(6, 7, 9)
    moved = wavelets.haar_wavedec(x.movedim(dim, -1), 2)
    for along, last in zip(wavelets.haar_wavedec(x, 2, dim=dim), moved, strict=True):
        torch.testing.assert_close(along, last.movedim(-1, dim))
    torch.testing.assert_close(
        wavelets.haar_components(x, 2, dim=dim).sum(0), x, msg="components along this dimension lose the signal"
    )
    back = wavelets.haar_waverec(wavelets.haar_wavedec(x, 2, dim=dim), x.shape[dim], dim=dim)
    torch.testing.assert_close(back, x)


@pytest.mark.parametrize(("length", "level"), CASES)
def test_inverse(length, level):
    x = signal(2, length)
    torch.testing.assert_close(wavelets.haar_waverec(wavelets.haar_wavedec(x, level), length), x)


@pytest.mark.parametrize(("length", "level"), [case for case in CASES if case[0] <= 1001])
def test_each_component_equals_zero_and_reconstruct(length, level):
    x = signal(length)
    ours = wavelets.haar_components(x, level)
    np.testing.assert_allclose(ours.numpy(), reference.components(x.numpy(), "haar", level), atol=1e-12)
    torch.testing.assert_close(ours.sum(0), x)


@pytest.mark.parametrize("wavelet", ["haar", "db1", "db2", "sym4", "coif1", "bior2.2"])
@pytest.mark.parametrize("length", [64, 101, 333])
def test_band_means_equal_zero_and_reconstruct(wavelet, length):
    x = signal(2, length, 5, dtype=torch.float32)
    level = wavelets.max_level(length, wavelet)
    amplitude, _ = wavelets.band_means(x, wavelet, level)
    assert amplitude.shape == (2, level + 1, length)
    for row, contributions in zip(amplitude, x, strict=True):
        expected = reference.amplitude(contributions.numpy(), wavelet, level)
        np.testing.assert_allclose(row.numpy(), expected, atol=2e-6)


def test_haar_amplitude_is_the_scaled_coefficient():
    x = signal(3, 100, 4, dtype=torch.float32)
    amplitude, coefficient = wavelets.band_means(x, "haar", 5)
    bands = wavelets.haar_wavedec(x, 5, dim=-2)
    for number, level in enumerate(wavelets.band_levels(5)):
        expected = bands[number].abs().mean(-1)[:, torch.arange(100) >> level]
        torch.testing.assert_close(coefficient[:, number], expected)
        torch.testing.assert_close(amplitude[:, number], expected * 2 ** (-level / 2))


def test_coefficients_of_other_wavelets_lie_over_their_positions():
    """A single spike must be brightest where it is, in the finest band of every wavelet."""
    for wavelet in ("haar", "db2", "sym4", "coif1", "bior2.2"):
        for where in (40, 41, 63):
            x = torch.zeros(1, 128, 1)
            x[0, where] = 1
            _, coefficient = wavelets.band_means(x, wavelet, 3)
            brightest = coefficient[0, -1].argmax().item()
            assert abs(brightest - where) <= 2, (wavelet, where)


def test_names_go_from_coarse_to_fine():
    assert wavelets.band_names(3) == ["A3", "D3", "D2", "D1"]
    assert wavelets.band_levels(3) == [3, 3, 2, 1]


def test_a_slow_wave_is_in_a_low_band_and_a_fast_one_in_the_highest():
    n = torch.arange(256)
    fast = (1.0 - 2.0 * (n % 2))[None, :, None]
    slow = (1.0 - 2.0 * ((n // 64) % 2))[None, :, None]
    for wave, band in ((fast, "D1"), (slow, "D7")):
        amplitude, _ = wavelets.band_means(wave, "haar", 8)
        loudest = wavelets.band_names(8)[amplitude[0].mean(-1).argmax()]
        assert loudest == band
        torch.testing.assert_close(amplitude[0].sum(0), torch.ones(256))


@pytest.mark.parametrize("name", ["harr", "morl", "", None, 3])
def test_unknown_wavelet_is_named(name):
    with pytest.raises(TreeKVError, match="discrete wavelet"):
        wavelets.checked_wavelet(name)


def test_what_cannot_be_transformed_is_refused():
    with pytest.raises(TreeKVError, match="-1"):
        wavelets.haar_wavedec(torch.zeros(4), -1)
    with pytest.raises(TreeKVError, match="int64"):
        wavelets.haar_wavedec(torch.arange(4), 1)
    with pytest.raises(TreeKVError, match=r"\(2, 0\)"):
        wavelets.haar_wavedec(torch.zeros(2, 0), 1)
