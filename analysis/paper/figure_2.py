"""The paper's figure 2: amplitude of the Haar bands of what the last of 512 tokens takes from each, over many samples.

The paper's protocol: Haar, 5 levels, the contributions that the query of step 512 sees, mean of the absolute component
over channels, query heads, layers and 2,000 samples; the first tokens (sinks) take part in the transform. Its picture
leaves out the first and the last 32 positions, which a cache protects anyway.
Source: He et al., TreeKV, IJCAI 2025, arXiv 2501.04987.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from analysis import netcdf
from analysis.captures.forward_pass import record_batch
from analysis.captures.request import Text, check_ids, chosen_layers
from analysis.paper.windows import Windows, cut_windows
from analysis.progress import Progress
from analysis.wavelets.bands import WaveletTransform, transform_of
from analysis.wavelets.spectrum import UNITS
from treekv.attention import softmax
from treekv.errors import TreeKVError
from treekv.model_identity import model_fingerprint, model_name

FORMAT = "treekv-figure2"
LEVELS = 5
MARGIN = 32  # positions at either end that the paper's picture leaves out
LEAST_TOKENS = 2 * MARGIN + 2**LEVELS  # at least one coefficient of the lowest bands between the margins


def figure2(
    model: nn.Module,
    tokenizer: Any,
    texts: str | Mapping[str, Text] | Sequence[Text],
    tokens: int = 512,
    samples: int | None = None,
    *,
    layers: Sequence[int] | None = None,
    batch: int = 8,
    resamples: int = 999,
    seed: int = 0,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Amplitude of each Haar band at each position of a window, seen by the window's last token; mean over samples.

    Args:
        model: a causal model of transformers whose attention is "treekv" (as `load_model` returns it).
        tokenizer: its tokenizer; may be None when the texts are token ids.
        texts: one string, or several texts by name or in a list, each a string or token ids. Windows are cut from
            them without overlap, about as many from each, evenly spaced in each.
        tokens: tokens of a window; the paper's 512.
        samples: number of windows; all there are, at most 2,000, when None.
        layers: the model's numbers of the layers to average; by default every full-attention layer.
        batch: windows in one forward pass. Queries, keys and values of one layer exist at a time.
        resamples, seed: of the bootstrap over samples.
        progress: called with (done, total), in layers times windows.

    Returns:
        Dataset, lowest band first (A5, D5 ... D1), in the units of the values:
          amplitude        (band, position)         mean |component| over channels, query heads, layers and samples
          amplitude_low, amplitude_high             the 95 % bootstrap interval of it over samples; NaN with one sample
          query_amplitude  (query, band, position)  the same of each sample
        with coords band, level, support, low_frequency, high_frequency (band), position (0 ... tokens - 1), and for
        each sample query (the position of the observed token), text (the number of its text) and start (where in it
        the window begins). attrs: margin (positions at either end that the paper's picture leaves out), names (of the
        texts, JSON), texts, samples, tokens, model, and the transform's settings.

    Raises:
        TreeKVError: a window too short for the transform and the margins or longer than the model's positions, a text
            shorter than a window, more samples than windows, a layer that cannot be captured, a model with another
            attention, or a batch or number of resamples out of range.
    """
    if tokens < LEAST_TOKENS:
        raise TreeKVError(
            f"tokens is {tokens}; {LEVELS} levels between two margins of {MARGIN} positions need at least "
            f"{LEAST_TOKENS}, and the paper has 512"
        )
    if batch < 1:
        raise TreeKVError(f"batch is {batch}; run at least 1 window at a time")
    if resamples < 99:
        raise TreeKVError(f"resamples is {resamples}; fewer than 99 give no 95 % interval")
    numbers = chosen_layers(model.config, layers)
    windows = cut_windows(tokenizer, texts, tokens, samples)
    for ids in windows.ids.tolist():
        check_ids(ids, model.config)
    transform = transform_of(tokens, "haar", LEVELS)
    by_sample = _by_sample(model, windows, numbers, transform, batch, progress)
    low, high = _interval(by_sample, resamples, np.random.default_rng(seed))
    place = ("band", "position")
    return xr.Dataset(
        {
            "amplitude": (place, by_sample.mean(0), {"long_name": "mean |component|", "units": UNITS}),
            "amplitude_low": (place, low, {"long_name": "lower end of the 95 % interval", "units": UNITS}),
            "amplitude_high": (place, high, {"long_name": "upper end of the 95 % interval", "units": UNITS}),
            "query_amplitude": (
                ("query", *place),
                by_sample,
                {"long_name": "mean |component| of one sample", "units": UNITS},
            ),
        },
        coords={
            "band": np.asarray(transform.names),
            "level": ("band", np.asarray(transform.levels, np.int32)),
            "support": ("band", np.asarray(transform.support, np.int32)),
            "low_frequency": ("band", transform.frequencies[:, 0], {"units": "cycles per token"}),
            "high_frequency": ("band", transform.frequencies[:, 1], {"units": "cycles per token"}),
            "position": np.arange(tokens, dtype=np.int32),
            "query": np.full(len(by_sample), tokens - 1, np.int32),
            "text": ("query", np.asarray(windows.text, np.int32)),
            "start": ("query", np.asarray(windows.start, np.int64)),
        },
        attrs={
            "format": FORMAT,
            "format_version": netcdf.FORMAT_VERSION,
            "model": model_name(model.config),
            "model_fingerprint": model_fingerprint(model),
            "layers": json.dumps(numbers),
            "wavelet": transform.wavelet,
            "mode": transform.mode,
            "transform": transform.kind,
            "sinks": "include",
            "sink_count": 0,
            "projected": 0,
            "margin": MARGIN,
            "tokens": tokens,
            "texts": len(windows.names),
            "names": json.dumps(windows.names),
            "samples": len(by_sample),
            "resamples": resamples,
            "seed": seed,
            **netcdf.versions(),
        },
    )


def _by_sample(
    model: nn.Module,
    windows: Windows,
    layers: Sequence[int],
    transform: WaveletTransform,
    batch: int,
    progress: Progress | None,
) -> np.ndarray:
    """float32 [windows, band, position]: amplitude of each window, mean over layers and query heads."""
    found = []
    done, total = 0, len(windows.ids) * len(layers)
    for ids in windows.ids.split(batch):
        parts: list[Tensor] = []

        def consume(number: int, q: Tensor, k: Tensor, v: Tensor, scaling: float, parts: list[Tensor] = parts) -> None:
            nonlocal done
            parts.append(transform.statistics(last_contributions(q, k, v, scaling)).amplitude.mean(1))
            done += len(q)
            if progress is not None:
                progress(done, total)

        record_batch(model, ids, layers, consume)
        found.append(torch.stack(parts).mean(0).cpu().numpy())
    return np.concatenate(found)


def last_contributions(q: Tensor, k: Tensor, v: Tensor, scaling: float) -> Tensor:
    """Weight times value of every token for the last query: float32 [rows, query_heads, T, value_dim].

    `q` [rows, query_heads, T, head_dim], `k` and `v` [rows, kv_heads, T, dim]. The weights of this one query are all
    that is computed.
    """
    scoring = softmax.Scoring(scaling)
    weights = softmax.attention_weights(q[:, :, -1:].float(), k.float(), scoring)  # [rows, kv_heads, group, T]
    return (weights.unsqueeze(-1) * v.float().unsqueeze(2)).flatten(1, 2)


def _interval(by_sample: np.ndarray, resamples: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the 95 % bootstrap interval (percentiles) of the mean over samples, each [band, position]."""
    count, *shape = by_sample.shape
    if count < 2:
        nothing = np.full(shape, np.nan, np.float32)
        return nothing, nothing
    # How often each sample is drawn: the means of all resamples are then one product of matrices.
    drawn = generator.multinomial(count, np.full(count, 1 / count), size=resamples) / count
    means = drawn.astype(np.float32) @ by_sample.reshape(count, -1)
    low, high = np.quantile(means, (0.025, 0.975), axis=0)
    return low.reshape(shape).astype(np.float32), high.reshape(shape).astype(np.float32)
