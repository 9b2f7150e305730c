"""Wavelet transforms of contributions: the amplitude of each band at each position, reduced over channels.

    transform = transform_of(length=2048)                          # Haar, 5 levels, boundary "symmetric"
    amplitude, coefficient, energy = transform.statistics(contributions)   # contributions [..., n, channels]

Three transforms, all lowest band first:
  "dwt"     the decimated transform, as in the paper: A_L, D_L ... D_1, each an octave
  "packet"  a wavelet packet tree: 2^L bands of equal width, so the highest octaves are split further
  "swt"     the stationary transform: the octaves again, but moving with the signal, for claims about location
Haar runs in torch on the signal's device; every other wavelet is computed by PyWavelets on the CPU.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pywt
import torch
from torch import Tensor

from analysis.wavelets.haar import (
    HAAR_MODES,
    MODE,
    band_levels,
    band_names,
    check_haar,
    extended,
    haar_stationary,
    packet_paths,
    pairs,
    stationary_bands,
)
from treekv.errors import TreeKVError

TRANSFORMS = ("dwt", "swt", "packet")
DEFAULT_LEVEL = {"dwt": 5, "swt": 5, "packet": 3}  # 5 are the paper's
_DEEPEST_PACKET = 6  # 64 bands: more cannot be read in a figure, and the arrays grow with their number


class BandStatistics(NamedTuple):
    """float32; bands lowest first. See `WaveletTransform.statistics`."""

    amplitude: Tensor  # [..., band, n]
    coefficient: Tensor  # [..., band, n]
    energy: Tensor  # [..., band]


@dataclass(frozen=True)
class WaveletTransform:
    """A wavelet, a depth, a boundary mode and one of `TRANSFORMS`; made by `transform_of`, which checks them."""

    wavelet: str
    level: int
    mode: str
    kind: str

    @property
    def names(self) -> list[str]:
        """Band names, lowest frequency first: A3, D3, D2, D1, or the packets' paths aaa, aad, add, ada ..."""
        return packet_paths(self.level) if self.kind == "packet" else band_names(self.level)

    @property
    def levels(self) -> list[int]:
        """How many splits lead to each band."""
        return [self.level] * 2**self.level if self.kind == "packet" else band_levels(self.level)

    @property
    def frequencies(self) -> np.ndarray:
        """Nominal edges of each band in cycles per token, [bands, 2]; 0.5 is a change at every token."""
        if self.kind == "packet":
            edges = np.linspace(0, 0.5, 2**self.level + 1)
        else:
            edges = np.array([0.0, *(2.0 ** -(k + 1) for k in range(self.level, -1, -1))])
        return np.stack((edges[:-1], edges[1:]), axis=1)

    @property
    def support(self) -> list[int]:
        """The number of positions that one coefficient of each band covers: within it values are not independent."""
        reach = [(2**k - 1) * (checked_wavelet(self.wavelet).dec_len - 1) + 1 for k in self.levels]
        return [2 * n - 1 for n in reach] if self.kind == "swt" else reach

    def statistics(self, signal: Tensor) -> BandStatistics:
        """Statistics of each band at each sample, averaged over the last dimension (channels).

        For `signal` [..., n, channels]:
          amplitude    mean |component|, in the signal's units; the component of a band is the signal that the
                       inverse transform gives when every other band is zero
          coefficient  mean |coefficient|, repeated over the samples that the coefficient describes
          energy       sum over samples of the mean component^2. For an orthogonal decimated transform the
                       bands' energies add up to the signal's, except for what the boundary adds
        No Haar component is ever built: in "dwt" and "packet" its magnitude is that of the coefficient divided by
        2^(k/2), constant on 2^k samples.
        """
        haar = _is_haar(self.wavelet)
        if self.kind == "swt":
            return (_haar_stationary if haar else _pywt_stationary)(signal, self)
        if haar and self.mode in HAAR_MODES:
            return _haar_statistics(signal, _paths(self), self.mode)
        return _pywt_statistics(signal, self)

    def coefficients(self, signal: Tensor) -> list[Tensor]:
        """The signed coefficients along the last dimension, one tensor a band; "swt" ones are aligned with it."""
        if self.kind == "swt":
            if _is_haar(self.wavelet):
                return list(haar_stationary(signal, self.level, self.mode)[1])
            samples, _ = _pywt_stationary_parts(signal, self)
            return [torch.from_numpy(x).to(signal.device) for x in samples]
        nodes = _pywt_nodes(signal.detach().cpu().numpy(), self, axis=-1)
        return [torch.from_numpy(nodes[path]).to(signal.device) for path in _paths(self)]


def transform_of(
    length: int, wavelet: str = "haar", level: int | None = None, mode: str = MODE, transform: str = "dwt"
) -> WaveletTransform:
    """A checked transform for signals of `length` samples or more.

    `level` None is 5 (packets: 3), or the deepest that the length allows. Raises TreeKVError for a wavelet or
    mode that PyWavelets does not have, an unknown transform, or a level out of range.
    """
    if transform not in TRANSFORMS:
        raise TreeKVError(f"transform {transform!r} is not one of {', '.join(map(repr, TRANSFORMS))}")
    if mode not in pywt.Modes.modes:
        raise TreeKVError(f"mode {mode!r} is not one of {', '.join(map(repr, pywt.Modes.modes))}")
    deepest = max_level(length, wavelet)
    if transform == "packet":
        deepest = min(deepest, _DEEPEST_PACKET)
    if level is None:
        level = min(DEFAULT_LEVEL[transform], deepest)
    if deepest < 1:
        raise TreeKVError(
            f"{length} positions are too few for the {transform} of {wavelet!r}, which has no level there; transform a "
            "longer text or take a shorter wavelet, such as 'haar'"
        )
    if not 1 <= level <= deepest:
        raise TreeKVError(
            f"level is {level}; the {transform} of {wavelet!r} on {length} positions allows 1 to {deepest}"
        )
    return WaveletTransform(wavelet, level, mode, transform)


def max_level(length: int, wavelet: str = "haar") -> int:
    """The deepest level at which a signal of `length` samples has a coefficient that the boundary does not affect.

    Raises TreeKVError for a wavelet that PyWavelets does not have.
    """
    filter_length = checked_wavelet(wavelet).dec_len
    return int(pywt.dwt_max_level(length, filter_length)) if length > 0 else 0


def checked_wavelet(name: str) -> pywt.Wavelet:
    """PyWavelets' discrete wavelet of this name; raises TreeKVError with examples for any other name."""
    try:
        return pywt.Wavelet(name)
    except (ValueError, TypeError, AttributeError) as error:
        raise TreeKVError(
            f"wavelet {name!r} is not a discrete wavelet; try 'haar', 'db2', 'sym4', 'coif1' or another name of "
            "pywt.wavelist(kind='discrete')"
        ) from error


def _is_haar(wavelet: str) -> bool:
    return checked_wavelet(wavelet).name in ("haar", "db1")


def _paths(transform: WaveletTransform) -> list[str]:
    """Each band as the path of splits to it: D3 is "aad"."""
    if transform.kind == "packet":
        return packet_paths(transform.level)
    details = ["a" * (k - 1) + "d" for k in range(transform.level, 0, -1)]
    return ["a" * transform.level, *details]


def _haar_statistics(signal: Tensor, paths: list[str], mode: str) -> BandStatistics:
    check_haar(signal, max(map(len, paths)), -2, mode)
    *batch, length, channels = signal.shape
    index = torch.arange(length, device=signal.device)
    amplitude, coefficient = (torch.empty(*batch, len(paths), length, device=signal.device) for _ in range(2))
    energy = torch.empty(*batch, len(paths), device=signal.device)
    inner = {path[:depth] for path in paths for depth in range(len(path))}

    def visit(node: Tensor, path: str) -> None:
        # Nodes are sums and differences without the factor 2^(-k/2), which is applied to the reduced numbers.
        if path in inner:
            even, odd = pairs(node, -2, mode)
            visit(even - odd, path + "d")
            visit(even + odd, path + "a")
            return
        k, row = len(path), paths.index(path)
        # The sum of absolute values as a norm needs no temporary of the signal's size.
        mean = torch.linalg.vector_norm(node, 1, dim=-1, dtype=torch.float32) / channels
        laid = mean.index_select(-1, index >> k)
        amplitude[..., row, :] = laid * 2.0**-k
        coefficient[..., row, :] = laid * 2.0 ** (-k / 2)
        square = torch.linalg.vector_norm(node, 2, dim=-1, dtype=torch.float32).square() / channels
        covered = torch.bincount(index >> k)  # the last coefficient may extend beyond the end
        energy[..., row] = (square * covered).sum(-1) * 4.0**-k

    visit(signal, "")
    return BandStatistics(amplitude, coefficient, energy)


def _haar_stationary(signal: Tensor, transform: WaveletTransform) -> BandStatistics:
    rows = []
    for component, coefficient in stationary_bands(
        signal.float().transpose(-1, -2).contiguous(), transform.level, transform.mode
    ):
        square = torch.linalg.vector_norm(component, 2, dim=(-2, -1)).square() / component.shape[-2]
        rows.append((component.abs().mean(-2), coefficient.abs().mean(-2), square))
    amplitude, coefficients, energy = zip(*rows[::-1], strict=True)
    return BandStatistics(torch.stack(amplitude, -2), torch.stack(coefficients, -2), torch.stack(energy, -1))


def _pywt_statistics(signal: Tensor, transform: WaveletTransform) -> BandStatistics:
    samples = signal.detach().float().cpu().numpy()
    length = samples.shape[-2]
    nodes = _pywt_nodes(samples, transform, axis=-2)
    lengths = {len(path): node.shape[-2] for path, node in nodes.items()} | {0: length}
    # A coefficient describes the samples around the centre of its filter on the level above.
    filter_length = checked_wavelet(transform.wavelet).dec_len
    middle = 0 if transform.mode == "periodization" else (filter_length - 2) // 2
    components, coefficients = [], []
    for path in _paths(transform):
        place = np.arange(length)
        for _ in path:
            place = (place + middle) // 2
        node = nodes[path]
        coefficients.append(np.abs(node).mean(-1)[..., np.minimum(place, node.shape[-2] - 1)])
        components.append(_pywt_component(node, path, transform, lengths))
    return _reduced(components, coefficients, signal.device)


def _pywt_nodes(samples: np.ndarray, transform: WaveletTransform, axis: int) -> dict[str, np.ndarray]:
    """Every node of the tree of splits down to the bands, by path."""
    nodes = {"": samples}
    inner = {band[:depth] for band in _paths(transform) for depth in range(len(band))}
    for path in sorted(inner, key=len):
        low, high = pywt.dwt(nodes[path], transform.wavelet, mode=transform.mode, axis=axis)
        nodes[path + "a"], nodes[path + "d"] = low, high
    return nodes


def _pywt_component(node: np.ndarray, path: str, transform: WaveletTransform, lengths: dict[int, int]) -> np.ndarray:
    """Reconstruct one band alone, level by level, each cut to the original length of that level."""
    for depth in range(len(path), 0, -1):
        low, high = (node, None) if path[depth - 1] == "a" else (None, node)
        node = pywt.idwt(low, high, transform.wavelet, mode=transform.mode, axis=-2)[..., : lengths[depth - 1], :]
    return node


def _pywt_stationary(signal: Tensor, transform: WaveletTransform) -> BandStatistics:
    coefficients, components = _pywt_stationary_parts(signal.transpose(-1, -2), transform)
    return _reduced([x.swapaxes(-1, -2) for x in components], [np.abs(x).mean(-2) for x in coefficients], signal.device)


def _pywt_stationary_parts(signal: Tensor, transform: WaveletTransform) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Aligned coefficients and components of PyWavelets' swt along the last dimension, each as long as it."""
    wavelet, level, length = checked_wavelet(transform.wavelet), transform.level, signal.shape[-1]
    # swt wraps around and needs multiples of 2^level: extend the signal, cut afterwards.
    step = 2**level
    reach = -(-(step * wavelet.dec_len) // step) * step
    samples = extended(signal.detach().float(), reach, transform.mode).cpu().numpy()
    tail = [(0, 0)] * (samples.ndim - 1) + [(0, -length % step)]
    samples = np.pad(samples, tail)
    inside = slice(reach, reach + length)
    bands = pywt.swt(samples, wavelet, level=level, axis=-1, trim_approx=True)
    delays = _delays(transform.wavelet, level)
    coefficients, components = [], []
    for number in range(level + 1):
        alone = [band if i == number else np.zeros_like(band) for i, band in enumerate(bands)]
        components.append(pywt.iswt(alone, wavelet, axis=-1)[..., inside])
        coefficients.append(np.roll(bands[number], delays[number], axis=-1)[..., inside])
    return coefficients, components


@functools.lru_cache
def _delays(wavelet: str, level: int) -> list[int]:
    """By how many samples PyWavelets' swt coefficients of each band precede the sample that they describe.

    Measured as the centre of energy of the impulse response.
    """
    length = 2 ** (level + 1) * checked_wavelet(wavelet).dec_len
    spike = np.zeros(length)
    spike[length // 2] = 1
    offset = np.arange(length) - length // 2
    responses = pywt.swt(spike, wavelet, level=level, trim_approx=True)
    return [int(np.floor(0.5 - (offset * x**2).sum() / (x**2).sum())) for x in responses]


def _reduced(components: list[np.ndarray], coefficients: list[np.ndarray], device: torch.device) -> BandStatistics:
    amplitude = np.stack([np.abs(x).mean(-1) for x in components], axis=-2)
    energy = np.stack([np.square(x).mean(-1).sum(-1) for x in components], axis=-1)
    parts = (amplitude, np.stack(coefficients, axis=-2), energy)
    return BandStatistics(*(torch.from_numpy(x.astype(np.float32)).to(device) for x in parts))
