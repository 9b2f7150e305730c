"""The multilevel Haar transform in torch, on any device and any floating dtype.

A signal of n samples becomes level + 1 bands, named lowest frequency first: ["A8", "D8", ..., "D1"]. The
*component* of a band is the reconstruction from that band alone; it has n samples again, and all components
sum to the signal.

    coefficients = haar_wavedec(signal, level=8)              # [A8, D8, ..., D1], D1 the longest
    haar_waverec(coefficients, length=signal.shape[-1])       # the signal
    haar_components(signal, level=8).sum(0)                   # the signal
    haar_packets(signal, level=3)                             # 8 bands of equal width, by frequency
    haar_stationary(signal, level=8)                          # A8, D8 ... D1 that move with the signal

Boundary modes. Haar compares disjoint pairs, so the boundary matters only where a level has an odd number of
samples; what is appended after its last one:
  "symmetric"      the last sample again (as PyWavelets; the default): a constant signal has no detail
  "periodization"  the last sample again: for Haar the same as "symmetric"
  "zero"           zero: the transform preserves the energy exactly, but a constant signal has a detail there
Source: He et al., TreeKV, arXiv 2501.04987; signs and boundary as in PyWavelets.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pywt
import torch
from torch import Tensor

from treekv.errors import TreeKVError

MODE = "symmetric"
HAAR_MODES = ("symmetric", "zero", "periodization")

_ROOT_HALF = 0.5**0.5


def band_names(level: int) -> list[str]:
    """Names of the level + 1 bands, lowest frequency first: ["A3", "D3", "D2", "D1"] for level 3."""
    return [f"A{level}", *(f"D{k}" for k in range(level, 0, -1))]


def band_levels(level: int) -> list[int]:
    """Decomposition level of each band in the order of `band_names`: [3, 3, 2, 1] for level 3."""
    return [level, *range(level, 0, -1)]


def packet_paths(level: int) -> list[str]:
    """The 2^level leaves of a wavelet packet tree, lowest frequency first: ["aa", "ad", "dd", "da"] for level 2.

    Each letter is one split, low-pass "a" or high-pass "d". A high-pass reverses the order of frequencies, which is
    why the order is a Gray code.
    """
    codes = (number ^ number >> 1 for number in range(2**level))
    return ["".join("d" if code >> bit & 1 else "a" for bit in range(level - 1, -1, -1)) for code in codes]


def haar_wavedec(signal: Tensor, level: int, dim: int = -1, mode: str = MODE) -> list[Tensor]:
    """Haar coefficients [A_level, D_level, ..., D_1] of `signal` along `dim`.

    The other dimensions are batch dimensions and stay in place. D_k has ceil(n / 2^k) entries along `dim`, A_level
    as many as D_level. Device and floating dtype are preserved. Raises TreeKVError for a negative level, an
    empty signal, one of integers, or a mode that is not one of `HAAR_MODES`.
    """
    check_haar(signal, level, dim, mode)
    approximation = signal
    details: list[Tensor] = []
    for _ in range(level):
        even, odd = pairs(approximation, dim, mode)
        details.append((even - odd).mul_(_ROOT_HALF))
        approximation = (even + odd).mul_(_ROOT_HALF)
    return [approximation, *reversed(details)]


def haar_waverec(coefficients: Sequence[Tensor], length: int | None = None, dim: int = -1) -> Tensor:
    """The signal from `haar_wavedec`'s coefficients, whatever the mode.

    `length` is the number of samples along `dim`; without it a signal of odd length comes back one sample longer,
    since n and n + 1 samples have equally many coefficients.
    """
    signal = coefficients[0]
    dim = dim % signal.ndim
    for detail in coefficients[1:]:
        # An odd length was padded by one sample in the analysis, which the synthesis cuts off.
        approximation = signal.narrow(dim, 0, detail.shape[dim])
        pair = torch.stack((approximation + detail, approximation - detail), dim=dim + 1)
        signal = pair.flatten(dim, dim + 1) * _ROOT_HALF
    return signal if length is None else signal.narrow(dim, 0, length)


def haar_components(signal: Tensor, level: int, dim: int = -1, mode: str = MODE) -> Tensor:
    """The component of every band, stacked along a new first dimension: [level + 1, *signal.shape], lowest first.

    They sum over the first dimension to the signal. No inverse transform is computed: the component of D_k has one
    magnitude on each run of 2^k samples, |D_k| / 2^(k/2), with D_k's sign on the first half of the run and
    the opposite sign on the second.
    """
    coefficients = haar_wavedec(signal, level, dim, mode)
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


def haar_packets(signal: Tensor, level: int, dim: int = -1, mode: str = MODE) -> list[Tensor]:
    """Coefficients of the 2^level bands of equal width, in the order of `packet_paths`; shapes as D_level's."""
    check_haar(signal, level, dim, mode)
    nodes = {"": signal}
    for _ in range(level):
        split: dict[str, Tensor] = {}
        for path, node in nodes.items():
            even, odd = pairs(node, dim, mode)
            split[path + "a"], split[path + "d"] = (even + odd).mul_(_ROOT_HALF), (even - odd).mul_(_ROOT_HALF)
        nodes = split
    return [nodes[path] for path in packet_paths(level)]


def haar_stationary(signal: Tensor, level: int, mode: str = MODE) -> tuple[Tensor, Tensor]:
    """Undecimated Haar along the last dimension: (components, coefficients), [level + 1, *signal.shape] each.

    Shifting the signal shifts both, so a peak stays where it is in the signal. The component of D_k is the
    difference of two smoothings S_(k-1) - S_k, where S_k is the mean of all 2^k ways to lay blocks of 2^k
    samples; they sum to the signal. The coefficient of D_k at n compares the 2^(k-1) samples before n with
    the 2^(k-1) from n on. Beyond its ends the signal is extended by `mode`, any of PyWavelets' (see `extended`).
    """
    bands = list(stationary_bands(signal, level, mode))[::-1]
    components, coefficients = zip(*bands, strict=True)
    return torch.stack(components), torch.stack(coefficients)


def stationary_bands(signal: Tensor, level: int, mode: str = MODE) -> Iterator[tuple[Tensor, Tensor]]:
    """What `haar_stationary` stacks, one band (component, coefficient) at a time, highest first: less memory."""
    if level < 0:
        raise TreeKVError(f"level {level} is negative; a transform has level 0 or more")
    length, reach = signal.shape[-1], 2**level
    smooth = block = extended(signal, reach, mode)
    inside = slice(reach, reach + length)
    for k in range(1, level + 1):
        half = 2 ** (k - 1)
        # Rolling wraps around; the wrapped samples stay within `reach` of the ends and are cut off.
        smoother = (smooth.roll(half, -1) + smooth.roll(-half, -1)).add_(smooth, alpha=2).mul_(0.25)
        before = block.roll(half, -1)  # block[n] is the sum of samples n ... n + half - 1
        yield (smooth - smoother)[..., inside], (before - block)[..., inside] * 2.0 ** (-k / 2)
        smooth, block = smoother, block + block.roll(-half, -1)
    centred = block.roll(reach // 2, -1) if level else block
    yield smooth[..., inside], centred[..., inside] * 2.0 ** (-level / 2)


def extended(signal: Tensor, reach: int, mode: str) -> Tensor:
    """The signal extended by `reach` samples on either side of the last dimension, as PyWavelets extends it."""
    length = signal.shape[-1]
    if mode == "zero":
        return torch.nn.functional.pad(signal, (reach, reach))
    if mode in ("symmetric", "constant", "reflect", "periodic", "periodization"):
        order = pywt.pad(np.arange(length), (reach, reach), mode)[: length + 2 * reach]
        return signal.index_select(-1, torch.from_numpy(order.astype(np.int64)).to(signal.device))
    samples = signal.detach().cpu().numpy()
    # One signal at a time: in some of these modes PyWavelets' pad also pads the other axes.
    longer = np.apply_along_axis(pywt.pad, -1, samples, reach, mode)
    return torch.from_numpy(longer).to(signal)


def pairs(signal: Tensor, dim: int, mode: str) -> tuple[Tensor, Tensor]:
    """Even and odd samples along `dim`; an odd length is extended by one sample according to the mode."""
    dim = dim % signal.ndim
    length = signal.shape[dim]
    if length % 2:
        last = signal.narrow(dim, length - 1, 1)
        signal = torch.cat((signal, torch.zeros_like(last) if mode == "zero" else last), dim=dim)
    even, odd = signal.unflatten(dim, (-1, 2)).unbind(dim + 1)
    return even, odd


def check_haar(signal: Tensor, level: int, dim: int, mode: str) -> None:
    """Raise TreeKVError for a signal or arguments that have no Haar transform."""
    if level < 0:
        raise TreeKVError(f"level {level} is negative; a transform has level 0 or more")
    if mode not in HAAR_MODES:
        raise TreeKVError(f"mode {mode!r} is not one of {', '.join(map(repr, HAAR_MODES))}")
    if not signal.is_floating_point():
        raise TreeKVError(f"a signal of {signal.dtype} has no Haar transform; convert it to a floating dtype")
    if signal.shape[dim] == 0:
        raise TreeKVError(f"a signal of shape {tuple(signal.shape)} has no sample along dimension {dim}")
