"""Wavelet spectrum of the token contributions: how much of each frequency band sits at which position.

    spectrum(run)["amplitude"].mean(("layer", "head")).sel(band="D1")     # the paper's curve of one band

Source: PAPER.md section 1 (He et al., TreeKV, arXiv 2501.04987).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import xarray as xr

from analysis import store
from analysis.capture import Capture
from analysis.wavelets import MODE, band_levels, band_means, band_names, checked_wavelet, max_level
from treekv.errors import TreeKVError

FORMAT = "treekv-spectrum"
DEFAULT_LEVEL = 8


def spectrum(
    run: Capture,
    wavelet: str = "haar",
    level: int | None = None,
    sinks: int = 4,
    progress: Callable[[int, int], None] | None = None,
) -> xr.Dataset:
    """Mean amplitude of each wavelet band of the contributions, per layer, query head and position.

    For each observed query t the contributions s_j = a_t[j] v_j, j from `sinks` to t, are one signal of
    t + 1 - sinks samples with head_dim channels. It is decomposed to `level` (default: 8, or the deepest that
    the length allows). Sink tokens carry many times the amplitude of the rest and would leak into the low
    bands of the first quarter, so the first `sinks` tokens are taken out before the transform and reported apart.

    Returns a Dataset, lowest band first, in the units of the values:
      amplitude      (layer, head, band, position)  mean over channels and queries of |component of the band|
      coefficient    (layer, head, band, position)  the same of |wavelet coefficient|, laid over the positions
                     it covers; for Haar amplitude * 2^(level / 2), so bands of white noise are equally bright
      sink_amplitude (layer, head, sink)            mean over channels and queries of |s_j|
    with coords layer, head (query heads), band, level (band), position (true positions), token (position),
    queries (position; how many observed queries see it), sink. A position that fewer queries see is averaged
    over those.

    `progress(done, layers)` is called after each layer. One layer is in memory at a time.
    Raises TreeKVError for an unknown wavelet, a level that the length does not allow, or too many sinks.
    """
    shortest = min(run.query_positions) + 1 - sinks
    if sinks < 0 or shortest < 2:
        raise TreeKVError(
            f"sinks is {sinks}; give 0 to {min(run.query_positions) - 1}, so that every query keeps 2 tokens"
        )
    deepest = max_level(shortest, checked_wavelet(wavelet).name)
    if level is None:
        level = min(DEFAULT_LEVEL, deepest)
    if not 1 <= level <= deepest:
        raise TreeKVError(f"level is {level}; {wavelet!r} on {shortest} positions allows 1 to {deepest}")

    last = max(run.query_positions)
    length = last + 1 - sinks
    shape = (len(run.layers), run.query_heads, level + 1, length)
    amplitude, coefficient = np.empty(shape, np.float32), np.empty(shape, np.float32)
    sink_amplitude = np.empty((*shape[:2], sinks), np.float32)
    seen = torch.zeros(length)
    for t in run.query_positions:
        seen[: t + 1 - sinks] += 1
    for index, layer in enumerate(run.layers):
        sums = _layer_sums(run, layer, wavelet, level, sinks, length)
        amplitude[index] = (sums[0] / seen).numpy()
        coefficient[index] = (sums[1] / seen).numpy()
        sink_amplitude[index] = (sums[2] / len(run.query_positions)).numpy()
        if progress is not None:
            progress(index + 1, len(run.layers))

    dims = ("layer", "head", "band", "position")
    return xr.Dataset(
        {
            "amplitude": (dims, amplitude, {"long_name": "mean |component|", "units": "units of the values"}),
            "coefficient": (
                dims,
                coefficient,
                {"long_name": "mean |coefficient|", "units": "units of the values"},
            ),
            "sink_amplitude": (
                ("layer", "head", "sink"),
                sink_amplitude,
                {"long_name": "mean |contribution|"},
            ),
        },
        coords={
            "layer": np.asarray(run.layers, np.int32),
            "head": np.arange(run.query_heads, dtype=np.int32),
            "band": np.asarray(band_names(level)),
            "level": ("band", np.asarray(band_levels(level), np.int32)),
            "position": np.arange(sinks, last + 1, dtype=np.int32),
            "token": ("position", np.asarray(run.token_text[sinks : last + 1], dtype=np.str_)),
            "queries": ("position", seen.numpy().astype(np.int32)),
            "sink": np.arange(sinks, dtype=np.int32),
        },
        attrs={
            "format": FORMAT,
            "format_version": store.FORMAT_VERSION,
            "model": run.model,
            "wavelet": wavelet,
            "mode": MODE,
            "sinks": sinks,
            "tokens": run.tokens,
            "query_positions": np.asarray(run.query_positions, np.int32),
            **store.versions(),
        },
    )


def save_spectrum(dataset: xr.Dataset, path: str | os.PathLike[str]) -> Path:
    """Write a spectrum to one netCDF file and return its path; TreeKVError when it cannot be written."""
    return store.write(dataset, path)


def open_spectrum(path: str | os.PathLike[str]) -> xr.Dataset:
    """Read what `save_spectrum` wrote; TreeKVError for a missing, damaged, foreign or newer file."""
    return store.read(path, FORMAT, ("amplitude", "coefficient", "sink_amplitude", "band", "level", "position"))


def _layer_sums(
    run: Capture, layer: int, wavelet: str, level: int, sinks: int, length: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sums over the observed queries: amplitude and coefficient [head, band, length], sinks [head, sinks]."""
    amplitude = torch.zeros(run.query_heads, level + 1, length)
    coefficient = torch.zeros_like(amplitude)
    sink_amplitude = torch.zeros(run.query_heads, sinks)
    for t in run.query_positions:
        contributions = run.contributions(layer, t)
        sink_amplitude += contributions[:, :sinks].abs().mean(-1).cpu()
        one_amplitude, one_coefficient = band_means(contributions[:, sinks:], wavelet, level)
        amplitude[..., : t + 1 - sinks] += one_amplitude.cpu()
        coefficient[..., : t + 1 - sinks] += one_coefficient.cpu()
    return amplitude, coefficient, sink_amplitude
