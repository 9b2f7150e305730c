"""The Haar transforms in torch against PyWavelets."""

import numpy as np
import pytest
import pywt
import torch

from analysis.wavelets import haar
from tests.reference import wavelets as reference
from treekv import TreeKVError

LENGTHS = [1, 2, 3, 4, 5, 37, 256, 1001, 4095, 4096]
MODES = haar.HAAR_MODES


def signal(*shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def levels(length):
    return sorted({0, 1, 2, pywt.dwt_max_level(length, "haar")})


CASES = [(length, level) for length in LENGTHS for level in levels(length)]
pytestmark = pytest.mark.filterwarnings("ignore:Level value of")  # levels beyond PyWavelets' advice are tried too


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("length", "level"), CASES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_coefficients_equal_pywavelets(length, level, mode, dtype, tolerance):
    x = signal(3, length, dtype=dtype)
    ours = haar.haar_wavedec(x, level, mode=mode)
    theirs = pywt.wavedec(x.numpy(), "haar", mode=mode, level=level)
    assert len(ours) == level + 1
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.dtype == dtype
        np.testing.assert_allclose(mine.numpy(), other, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_half_and_close(dtype):
    x = signal(2, 64, dtype=dtype)
    for mine, exact in zip(haar.haar_wavedec(x, 3), haar.haar_wavedec(x.double(), 3), strict=True):
        assert mine.dtype == dtype
        torch.testing.assert_close(mine.double(), exact, atol=0.06, rtol=0.02)


@pytest.mark.parametrize("dim", [0, 1, 2, -1, -3])
def test_any_dimension(dim):
    x = signal(6, 7, 9)
    for transform in (haar.haar_wavedec, haar.haar_packets):
        moved = transform(x.movedim(dim, -1), 2)
        for along, last in zip(transform(x, 2, dim=dim), moved, strict=True):
            torch.testing.assert_close(along, last.movedim(-1, dim))
    torch.testing.assert_close(
        haar.haar_components(x, 2, dim=dim).sum(0), x, msg="components along this dimension lose the signal"
    )
    back = haar.haar_waverec(haar.haar_wavedec(x, 2, dim=dim), x.shape[dim], dim=dim)
    torch.testing.assert_close(back, x)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("length", "level"), CASES)
def test_inverse(length, level, mode):
    x = signal(2, length)
    torch.testing.assert_close(haar.haar_waverec(haar.haar_wavedec(x, level, mode=mode), length), x)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("length", "level"), [case for case in CASES if case[0] <= 1001])
def test_each_component_equals_zero_and_reconstruct(length, level, mode):
    x = signal(length)
    ours = haar.haar_components(x, level, mode=mode)
    np.testing.assert_allclose(ours.numpy(), reference.components(x.numpy(), "haar", level, mode), atol=1e-12)
    torch.testing.assert_close(ours.sum(0), x)


def test_the_boundary_modes_differ_as_described():
    constant = torch.ones(7, dtype=torch.float64)
    for mode in ("symmetric", "periodization"):
        assert not any(detail.any() for detail in haar.haar_wavedec(constant, 2, mode=mode)[1:])
    assert haar.haar_wavedec(constant, 2, mode="zero")[-1][-1] > 0.7
    for x in (signal(7), signal(37)):
        energy = sum(band.square().sum() for band in haar.haar_wavedec(x, 3, mode="zero"))
        torch.testing.assert_close(energy, x.square().sum())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("length", [1, 5, 37, 256])
@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_packets_equal_pywavelets(length, level, mode):
    x = signal(2, length)
    ours = haar.haar_packets(x, level, mode=mode)
    leaves = pywt.WaveletPacket(x.numpy(), "haar", mode=mode, maxlevel=level, axis=-1)
    leaves = leaves.get_level(level, order="freq") if level else [leaves]
    assert haar.packet_paths(level) == [leaf.path for leaf in leaves]
    for mine, leaf in zip(ours, leaves, strict=True):
        np.testing.assert_allclose(mine.numpy(), leaf.data, atol=1e-12)


@pytest.mark.parametrize("mode", ["symmetric", "zero", "reflect", "smooth"])
@pytest.mark.parametrize(("length", "level"), [(37, 1), (64, 3), (101, 5)])
def test_stationary_components_equal_pywavelets(length, level, mode):
    x = signal(length)
    components, _ = haar.haar_stationary(x, level, mode)
    expected = reference.stationary_components(x.numpy(), "haar", level, mode)
    np.testing.assert_allclose(components.numpy(), expected, atol=1e-10)
    torch.testing.assert_close(components.sum(0), x)


def test_stationary_coefficients_equal_pywavelets():
    x = signal(64)
    _, ours = haar.haar_stationary(x, 4, "periodization")
    theirs = pywt.swt(x.numpy(), "haar", level=4, trim_approx=True)
    for mine, other, level in zip(ours, theirs, haar.band_levels(4), strict=True):
        # PyWavelets names a coefficient after its first sample, we after its middle; the sign is a convention.
        moved = np.roll(other, 2 ** (level - 1))
        np.testing.assert_allclose(mine.abs().numpy(), np.abs(moved), atol=1e-12)


def test_shifting_the_signal_shifts_the_stationary_transform_only():
    x = torch.zeros(128, dtype=torch.float64)
    x[40:50] = signal(10)
    moved = x.roll(1)
    for one, other in zip(haar.haar_stationary(x, 3), haar.haar_stationary(moved, 3), strict=True):
        torch.testing.assert_close(one.roll(1, -1), other)
    decimated = haar.haar_components(x, 3)
    assert (decimated.roll(1, -1) - haar.haar_components(moved, 3)).abs().max() > 0.1


def test_names_go_from_coarse_to_fine():
    assert haar.band_names(3) == ["A3", "D3", "D2", "D1"]
    assert haar.band_levels(3) == [3, 3, 2, 1]


def test_what_cannot_be_transformed_is_refused():
    with pytest.raises(TreeKVError, match="-1"):
        haar.haar_wavedec(torch.zeros(4), -1)
    with pytest.raises(TreeKVError, match="int64"):
        haar.haar_wavedec(torch.arange(4), 1)
    with pytest.raises(TreeKVError, match=r"\(2, 0\)"):
        haar.haar_wavedec(torch.zeros(2, 0), 1)
    with pytest.raises(TreeKVError, match="'smooth' is not one of 'symmetric', 'zero', 'periodization'"):
        haar.haar_wavedec(torch.zeros(4), 1, mode="smooth")
