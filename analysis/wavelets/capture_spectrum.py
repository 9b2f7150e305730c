"""Spectra without captures: each layer's spectrum is taken during the forward pass, and nothing else is kept.

For models whose queries, keys and values do not fit into memory or on the disk.

    found = capture_spectrum(model, tokenizer, text, max_tokens=8192, wavelet="db2")
    found = capture_spectra(model, tokenizer, {"novel": novel, "code": code}, folder="spectra")
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import xarray as xr
from torch import Tensor, nn

from analysis import netcdf
from analysis.captures.attention import output_weights
from analysis.captures.forward_pass import record
from analysis.captures.many import CaptureJob, request_many
from analysis.captures.request import CaptureRequest, Text
from analysis.progress import Progress
from analysis.wavelets.options import WaveletOptions
from analysis.wavelets.spectrum import FORMAT, SpectrumBuilder


def capture_spectrum(
    model: nn.Module,
    tokenizer: Any,
    text: Text,
    max_tokens: int = 2048,
    queries: int = 16,
    wavelet: str | WaveletOptions = "haar",
    level: int | None = None,
    *,
    layers: Sequence[int] | None = None,
    projected: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> xr.Dataset:
    """The spectrum of a text, equal to `spectrum(capture(...))`, without keeping queries, keys and values.

    Args:
        model, tokenizer, text, max_tokens, queries, layers, progress: as of `analysis.capture`.
        wavelet, level, options: as of `analysis.spectrum`.
        projected: take the contributions after the output projection.

    The spectrum is computed on the model's device; the Dataset is in host memory.

    Raises:
        TreeKVError: as `analysis.capture` and `analysis.spectrum` do.
    """
    request = CaptureRequest.of(model, tokenizer, text, max_tokens, queries, layers)
    return run_spectrum(model, WaveletOptions.of(wavelet, level, **options), projected, request, progress)


def capture_spectra(
    model: nn.Module,
    tokenizer: Any,
    texts: Mapping[str, Text] | Sequence[Text],
    max_tokens: int = 2048,
    queries: int = 16,
    wavelet: str | WaveletOptions = "haar",
    level: int | None = None,
    *,
    layers: Sequence[int] | None = None,
    projected: bool = False,
    folder: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> list[xr.Dataset]:
    """`capture_spectrum` of each text; `texts` and `folder` as of `analysis.capture_many`, also how it resumes.

    Raises TreeKVError as `capture_spectrum` and `analysis.capture_many` do.
    """
    chosen = WaveletOptions.of(wavelet, level, **options)
    requests = request_many(
        model, tokenizer, texts, max_tokens, queries, layers, lambda request: chosen.transform_for(request.queries[0])
    )
    job = CaptureJob(
        partial(run_spectrum, model, chosen, projected),
        partial(_fingerprint, chosen, projected),
        netcdf.write,
        FORMAT,
    )
    if folder is None:
        return job.in_memory(requests, progress)
    return [netcdf.read(path, FORMAT) for path in job.in_folder(requests, folder, progress)]


def run_spectrum(
    model: nn.Module,
    options: WaveletOptions,
    projected: bool,
    request: CaptureRequest,
    progress: Progress | None = None,
) -> xr.Dataset:
    """The spectrum of what a checked request asks for."""
    builder = SpectrumBuilder(request.queries, options, projected)

    def consume(number: int, q: Tensor, k: Tensor, v: Tensor, scaling: float) -> None:
        builder.add(number, q, k, v, scaling, output_weights(model, number, q.shape[0]) if projected else None)
        if progress is not None:
            progress(len(builder.layers), len(request.layers))

    model_layers = record(model, request.ids, request.layers, consume)
    attrs = {
        **request.attrs,
        "fingerprint": _fingerprint(options, projected, request),
        "model_layers": json.dumps(model_layers),
    }
    return builder.dataset(request.token_text, request.model).assign_attrs(attrs)


def _fingerprint(options: WaveletOptions, projected: bool, request: CaptureRequest) -> str:
    return request.fingerprint("spectrum", {**options.recorded, **({"projected": True} if projected else {})})
