"""Multilevel discrete wavelet transforms: Haar in torch, every other wavelet through PyWavelets.

A signal of n samples becomes level + 1 bands, named lowest frequency first: ["A8", "D8", ..., "D1"]. The
*component* of a band is the reconstruction from that band alone; it has n samples again, and all components
sum to the signal. At an odd length the last sample is repeated, which is PyWavelets' mode "symmetric".

    coefficients = haar_wavedec(signal, level=8)              # [A8, D8, ..., D1], D1 the longest
    haar_waverec(coefficients, length=signal.shape[-1])       # the signal
    haar_components(signal, level=8).sum(0)                   # the signal
    amplitude, coefficient = band_means(contributions, "haar", level=8)

Source: PAPER.md section 1 (He et al., TreeKV, arXiv 2501.04987); signs and boundary as in PyWavelets.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pywt
import torch
from torch import Tensor

from treekv.errors import TreeKVError

MODE = "symmetric"

_ROOT_HALF = 0.5**0.5


def band_names(level: int) -> list[str]:
    """Names of the level + 1 bands, lowest frequency first: ["A3", "D3", "D2", "D1"] for level 3."""
    return [f"A{level}", *(f"D{k}" for k in range(level, 0, -1))]


def band_levels(level: int) -> list[int]:
    """Decomposition level of each band in the order of `band_names`: [3, 3, 2, 1] for level 3."""
    return [level, *range(level, 0, -1)]


def max_level(length: int, wavelet: str = "haar") -> int:
    """The deepest level at which a signal of `length` samples still has a coefficient free of the boundary.

    Raises TreeKVError for a wavelet that PyWavelets does not have.
    """
    return int(pywt.dwt_max_level(length, checked_wavelet(wavelet).dec_len)) if length > 0 else 0


def checked_wavelet(name: str) -> pywt.Wavelet:
    """PyWavelets' discrete wavelet called `name`, or a TreeKVError that shows what exists."""
    try:
        return pywt.Wavelet(name)
    except (ValueError, TypeError, AttributeError) as error:
        raise TreeKVError(
            f"wavelet {name!r} is no discrete wavelet; try 'haar', 'db2', 'sym4', 'coif1' or another name of "
            "pywt.wavelist(kind='discrete')"
        ) from error


def haar_wavedec(signal: Tensor, level: int, dim: int = -1) -> list[Tensor]:
    """Haar coefficients [A_level, D_level, ..., D_1] of `signal` along `dim`.

    The other dimensions are batch and keep their place. D_k has ceil(n / 2^k) entries along `dim`, A_level as
    many as D_level. Device and floating dtype stay as they are. Raises TreeKVError for a negative level, an
    empty signal or one of whole numbers.
    """
    _check_haar(signal, level, dim)
    approximation = signal
    details: list[Tensor] = []
    for _ in range(level):
        even, odd = _pairs(approximation, dim)
        details.append((even - odd) * _ROOT_HALF)
        approximation = (even + odd) * _ROOT_HALF
    return [approximation, *reversed(details)]


def haar_waverec(coefficients: Sequence[Tensor], length: int | None = None, dim: int = -1) -> Tensor:
    """The signal whose `haar_wavedec` is `coefficients`.

    `length` is the number of samples along `dim`; without it an odd signal comes back one sample longer,
    since the coefficients of n and n + 1 samples look alike.
    """
    signal = coefficients[0]
    for detail in coefficients[1:]:
        # An odd length was padded by one on the way down: the padded sample is cut on the way up.
        approximation = signal.narrow(dim, 0, detail.shape[dim])
        pair = torch.stack((approximation + detail, approximation - detail), dim=_after(dim, detail.ndim))
        signal = pair.flatten(_positive(dim, detail.ndim), _positive(dim, detail.ndim) + 1) * _ROOT_HALF
    return signal if length is None else signal.narrow(dim, 0, length)


def haar_components(signal: Tensor, level: int, dim: int = -1) -> Tensor:
    """The component of every band, stacked in front: [level + 1, *signal.shape], lowest band first.

    They sum over the first dimension to the signal. No inverse transform runs: the component of D_k has one
    magnitude on each run of 2^k samples, |D_k| / 2^(k/2), with D_k's sign on the first half of the run and
    the opposite sign on the second.
    """
    coefficients = haar_wavedec(signal, level, dim)
    length = signal.shape[dim]
    index = torch.arange(length, device=signal.device)
    shape = [1] * signal.ndim
    shape[dim] = length
    components = []
    for number, (band, k) in enumerate(zip(coefficients, band_levels(level), strict=True)):
        component = band.index_select(dim, index >> k) * 2.0 ** (-k / 2)
        if number > 0:
            sign = 1 - 2 * ((index >> (k - 1)) & 1)
            component = component * sign.to(signal.dtype).view(shape)
        components.append(component)
    return torch.stack(components)


def band_means(signal: Tensor, wavelet: str, level: int) -> tuple[Tensor, Tensor]:
    """Mean over channels of what each band holds at each sample: (amplitude, coefficient).

    `signal` is [..., n, channels]; both results are float32 [..., level + 1, n], lowest band first.
    amplitude: mean |component|, in the signal's units. coefficient: mean |coefficient|, laid over the samples
    that the coefficient describes. For Haar amplitude = coefficient / 2^(k/2) at level k, and no component is
    ever built; other wavelets are reconstructed band by band on the CPU.
    """
    if checked_wavelet(wavelet).name in ("haar", "db1"):
        return _haar_band_means(signal, level)
    return _pywt_band_means(signal, wavelet, level)


def _haar_band_means(signal: Tensor, level: int) -> tuple[Tensor, Tensor]:
    _check_haar(signal, level, -2)
    *batch, length, channels = signal.shape
    index = torch.arange(length, device=signal.device)
    coefficient = torch.empty(*batch, level + 1, length, dtype=torch.float32, device=signal.device)
    approximation = signal
    for k in range(1, level + 1):
        even, odd = _pairs(approximation, -2)
        # The sum of absolute values over channels as a norm: nothing of the signal's size is kept.
        detail = torch.linalg.vector_norm(even - odd, 1, dim=-1, dtype=torch.float32)
        coefficient[..., level + 1 - k, :] = detail.index_select(-1, index >> k) * (_ROOT_HALF / channels)
        approximation = (even + odd) * _ROOT_HALF
    lowest = torch.linalg.vector_norm(approximation, 1, dim=-1, dtype=torch.float32) / channels
    coefficient[..., 0, :] = lowest.index_select(-1, index >> level)
    scale = torch.tensor([2.0 ** (-k / 2) for k in band_levels(level)], device=signal.device)
    return coefficient * scale[:, None], coefficient


def _pywt_band_means(signal: Tensor, wavelet: str, level: int) -> tuple[Tensor, Tensor]:
    samples = signal.detach().float().cpu().numpy()
    length = samples.shape[-2]
    bands = pywt.wavedec(samples, wavelet, mode=MODE, level=level, axis=-2)
    centre = (pywt.Wavelet(wavelet).dec_len - 2) // 2
    amplitude, coefficient = [], []
    for number, k in enumerate(band_levels(level)):
        index = np.arange(length)
        for _ in range(k):
            index = (index + centre) // 2
        index = np.minimum(index, bands[number].shape[-2] - 1)
        coefficient.append(np.abs(bands[number]).mean(-1)[..., index])
        amplitude.append(np.abs(_pywt_component(bands, number, k, wavelet, length)).mean(-1))
    return _stack_bands(amplitude, signal.device), _stack_bands(coefficient, signal.device)


def _pywt_component(bands: list[np.ndarray], number: int, k: int, wavelet: str, length: int) -> np.ndarray:
    """Reconstruct one band alone; the levels below it need the inverse low-pass only."""
    low, high = (bands[0], None) if number == 0 else (None, bands[number])
    component = pywt.idwt(low, high, wavelet, mode=MODE, axis=-2)
    for finer in range(k - 1, 0, -1):
        component = component[..., : bands[-finer].shape[-2], :]
        component = pywt.idwt(component, None, wavelet, mode=MODE, axis=-2)
    return component[..., :length, :]


def _stack_bands(bands: list[np.ndarray], device: torch.device) -> Tensor:
    return torch.from_numpy(np.stack(bands, axis=-2).astype(np.float32)).to(device)


def _pairs(signal: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    length = signal.shape[dim]
    if length % 2:
        signal = torch.cat((signal, signal.narrow(dim, length - 1, 1)), dim=dim)
    even, odd = signal.unflatten(dim, (-1, 2)).unbind(_after(dim, signal.ndim))
    return even, odd


def _positive(dim: int, ndim: int) -> int:
    return dim % ndim


def _after(dim: int, ndim: int) -> int:
    return dim % ndim + 1


def _check_haar(signal: Tensor, level: int, dim: int) -> None:
    if level < 0:
        raise TreeKVError(f"level {level} is negative; a transform has level 0 or more")
    if not signal.is_floating_point():
        raise TreeKVError(f"a signal of {signal.dtype} has no Haar transform; convert it to a floating dtype")
    if signal.shape[dim] == 0:
        raise TreeKVError(f"a signal of shape {tuple(signal.shape)} has no sample along dimension {dim}")
