"""Wavelet spectrum of the token contributions: the amplitude of each frequency band at each position.

    spectrum(captured)["amplitude"].mean(("layer", "head")).sel(band="D1")     # the paper's curve of one band
    mean_spectrum([spectrum(captured) for captured in captures])               # several texts as one spectrum

Source: He et al., TreeKV, arXiv 2501.04987.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from analysis import netcdf
from analysis.captures.attention import attention_weights, output_weights, weighted_values
from analysis.captures.data import Capture
from analysis.progress import Progress
from analysis.wavelets.options import WaveletOptions
from treekv.errors import TreeKVError

FORMAT = "treekv-spectrum"

_AT_ONCE = 1 << 19  # elements of the contributions that exist at a time, unless one head alone has more
UNITS = "units of the values"
LOSS_UNITS = "nats"  # along the gradient of the loss


def spectrum(
    captured: Capture,
    wavelet: str | WaveletOptions = "haar",
    level: int | None = None,
    *,
    model: nn.Module | None = None,
    weight: str | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> xr.Dataset:
    """Mean amplitude of each wavelet band of the contributions, per layer, query head and position.

    For each observed query t the contributions s_j = a_t[j] v_j are one signal along j with head_dim channels,
    which is decomposed into bands.

    Args:
        captured: the captured text.
        wavelet: any discrete wavelet of PyWavelets, or complete `WaveletOptions`.
        level: depth; by default the paper's 5 (packets: 3), or the deepest that the length allows.
        options: the other fields of `WaveletOptions` by name: mode, transform, sinks and sink_count.
        model: when given, contributions are taken after its output projection, channels of the residual stream.
        weight: "loss" takes the contributions along the gradient of the text's loss, the scalar signal
            s_j = a_t[j] (v_j . g_t) in nats: how much of the loss each token carries. Needs a capture with gradients;
            the text's last token, which predicts nothing, is then no query. None is the paper's spectrum.
        progress: called with (done, layers) after each layer; one layer is in memory at a time.

    Returns:
        Dataset, lowest band first, in the units of the values, or in nats with weight="loss":
          amplitude       (layer, head, band, position)  mean over channels and queries of |component|
          query_std       (layer, head, band, position)  standard deviation of that over the queries
          coefficient     (layer, head, band, position)  mean |coefficient|, repeated over the positions it
                          describes; for Haar amplitude * 2^(level / 2), so bands of white noise are equally bright
          energy          (layer, head, band)            mean over queries of the component's squares, summed over
                          positions (with sinks="include" those of the sinks too)
          query_amplitude (query, band, position)        each query's amplitude, mean over layers and heads; NaN
                          beyond the query
          sink_amplitude  (layer, head, sink)            mean over channels and queries of |s_j|
        with coords layer, head (query heads), band, level, support, low_frequency, high_frequency (band),
        position (true positions), token (position), queries (position; how many queries see it), query (their
        positions) and text (query). A position that only some queries see is averaged over those.

    Raises:
        TreeKVError: an unknown wavelet, mode or transform, a level that the length does not allow, too many
            sinks, contributions that are not finite, or a model without a known output projection. With weight="loss"
            also a capture without gradients, or one whose only query is the text's last token.
    """
    queries = captured.query_positions if weight is None else queries_with_loss(captured, weight, model)
    builder = SpectrumBuilder(
        queries, WaveletOptions.of(wavelet, level, **options), projected=model is not None, weight=weight
    )
    for index, layer in enumerate(captured.layers):
        output = None if model is None else output_weights(model, layer, captured.query_heads)
        if weight is not None:
            output = captured.gradient(layer)[:, queries, :, None]
        builder.add(layer, captured.q[index], captured.k[index], captured.v[index], captured.scaling[index], output)
        if progress is not None:
            progress(index + 1, len(captured.layers))
    return builder.dataset(captured.token_text, captured.model)


def queries_with_loss(captured: Capture, weight: str, model: nn.Module | None) -> list[int]:
    """The observed queries that predict a token of the text; TreeKVError where contributions have no gradient."""
    if weight != "loss":
        raise TreeKVError(f"weight is {weight!r}; give 'loss', or None for contributions without a weight")
    captured.check_sensitivity()
    if model is not None:
        raise TreeKVError("gradients belong to outputs before the projection; leave out model, or weight='loss'")
    queries = [t for t in captured.query_positions if t < captured.tokens - 1]
    if not queries:
        raise TreeKVError("the only observed query is the text's last token, which predicts nothing; observe 2 or more")
    return queries


class SpectrumBuilder:
    """Computes a spectrum from one layer at a time, from a capture or during the forward pass.

    Raises TreeKVError for options that these queries do not allow (see `WaveletOptions.transform_for`).
    """

    def __init__(
        self,
        query_positions: Sequence[int],
        options: WaveletOptions | None = None,
        projected: bool = False,
        weight: str | None = None,
    ) -> None:
        options = options or WaveletOptions()
        self.queries = list(query_positions)
        self.transform = options.transform_for(min(self.queries))
        self.sinks, self.sink_count, self.start = options.sinks, options.sink_count, options.start
        self.projected, self.weight = projected, weight
        self.layers: list[int] = []
        self.parts: dict[str, list[np.ndarray]] = {
            name: [] for name in ("amplitude", "query_std", "coefficient", "energy", "sink_amplitude")
        }
        length = max(query_positions) + 1 - self.sink_count
        self.by_query = np.zeros((len(self.queries), len(self.transform.names), length))
        self.seen = np.zeros(length, np.int32)
        for t in self.queries:
            self.seen[: t + 1 - self.sink_count] += 1

    def add(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scaling: float, output: Tensor | None = None) -> None:
        """Add one layer: q [query_heads, T, head_dim], k and v [kv_heads, T, dim]; `output` as of `output_weights`, or
        [query_heads, queries, value_dim, channels] with one matrix a query."""
        heads, bands, length = q.shape[0], len(self.transform.names), len(self.seen)
        mean, squares, coefficient = (torch.zeros(heads, bands, length, device=q.device) for _ in range(3))
        energy = torch.zeros(heads, bands, device=q.device)
        sink_amplitude = torch.zeros(heads, self.sink_count, device=q.device)
        seen = torch.zeros(length, device=q.device)
        weights = attention_weights(q[:, self.queries], k, scaling, self.queries)
        for number, t in enumerate(self.queries):
            inside = t + 1 - self.sink_count
            matrix = output[:, number] if output is not None and output.ndim == 4 else output
            one = self._statistics(weights[:, number, : t + 1], v[:, : t + 1], matrix)
            sink_amplitude += one["sink_amplitude"]
            energy += one["energy"]
            amplitude = one["amplitude"]
            self.by_query[number, :, :inside] += amplitude.mean(0).cpu().numpy()
            # Running mean and sum of squared deviations (Welford): the queries are so alike that a difference of
            # sums of squares would be mostly rounding error.
            seen[:inside] += 1
            change = amplitude - mean[..., :inside]
            mean[..., :inside] += change / seen[:inside]
            squares[..., :inside] += change * (amplitude - mean[..., :inside])
            coefficient[..., :inside] += one["coefficient"]
        count = len(self.queries)
        results = {
            "amplitude": mean,
            "query_std": (squares / seen).sqrt(),
            "coefficient": coefficient / seen,
            "energy": energy / count,
            "sink_amplitude": sink_amplitude / count,
        }
        for name, value in results.items():
            self.parts[name].append(value.cpu().numpy())
            if not np.isfinite(self.parts[name][-1]).all():
                raise TreeKVError(
                    f"the contributions of layer {layer} are not finite numbers; capture the text again, with the "
                    "model in torch.float32 or torch.bfloat16"
                )
        self.layers.append(layer)

    def _statistics(self, weights: Tensor, v: Tensor, output: Tensor | None) -> dict[str, Tensor]:
        """One query's statistics for all heads, a few heads at a time."""
        heads, kv_heads = weights.shape[0], v.shape[0]
        group = heads // kv_heads
        channels = v.shape[-1] if output is None else output.shape[-1]
        step = max(1, _AT_ONCE // (weights.shape[-1] * channels))
        pieces = []
        for first in range(0, heads, step):
            chosen = torch.arange(first, min(first + step, heads), device=v.device)
            # Each query head with the values that it reads, so that any subset of heads can be computed.
            contributions = weighted_values(weights[chosen], v[chosen // group])
            if output is not None:
                contributions = contributions @ output[chosen]
            found = self.transform.statistics(contributions[:, self.start :])
            cut = self.sink_count - self.start
            pieces.append(
                {
                    "amplitude": found.amplitude[..., cut:],
                    "coefficient": found.coefficient[..., cut:],
                    "energy": found.energy,
                    "sink_amplitude": contributions[:, : self.sink_count].abs().mean(-1),
                }
            )
        return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}

    def dataset(self, token_text: Sequence[str], model: str) -> xr.Dataset:
        """The spectrum of the layers added so far, as `spectrum` returns it."""
        arrays = {name: np.stack(parts) for name, parts in self.parts.items()}
        full, transform = ("layer", "head", "band", "position"), self.transform
        units = UNITS if self.weight is None else LOSS_UNITS
        last = max(self.queries)
        by_query = self.by_query / len(self.layers)
        for row, t in zip(by_query, self.queries, strict=True):
            row[:, t + 1 - self.sink_count :] = np.nan
        return xr.Dataset(
            {
                "amplitude": (full, arrays["amplitude"], {"long_name": "mean |component|", "units": units}),
                "query_std": (full, arrays["query_std"], {"long_name": "spread over queries", "units": units}),
                "coefficient": (full, arrays["coefficient"], {"long_name": "mean |coefficient|", "units": units}),
                "energy": (full[:3], arrays["energy"], {"long_name": "energy", "units": f"{units}, squared"}),
                "query_amplitude": (
                    ("query", "band", "position"),
                    by_query.astype(np.float32),
                    {"long_name": "mean |component| of one query", "units": units},
                ),
                "sink_amplitude": (
                    ("layer", "head", "sink"),
                    arrays["sink_amplitude"],
                    {"long_name": "mean |contribution|", "units": units},
                ),
            },
            coords={
                "layer": np.asarray(self.layers, np.int32),
                "head": np.arange(arrays["amplitude"].shape[1], dtype=np.int32),
                "band": np.asarray(transform.names),
                "level": ("band", np.asarray(transform.levels, np.int32)),
                "support": ("band", np.asarray(transform.support, np.int32)),
                "low_frequency": ("band", transform.frequencies[:, 0], {"units": "cycles per token"}),
                "high_frequency": ("band", transform.frequencies[:, 1], {"units": "cycles per token"}),
                "position": np.arange(self.sink_count, last + 1, dtype=np.int32),
                "token": ("position", np.asarray(token_text[self.sink_count : last + 1], dtype=np.str_)),
                "queries": ("position", self.seen),
                "query": np.asarray(self.queries, np.int32),
                "text": ("query", np.zeros(len(self.queries), np.int32)),
                "sink": np.arange(self.sink_count, dtype=np.int32),
            },
            attrs={
                "format": FORMAT,
                "format_version": netcdf.FORMAT_VERSION,
                "model": model,
                "wavelet": transform.wavelet,
                "mode": transform.mode,
                "transform": transform.kind,
                "sinks": self.sinks,
                "sink_count": self.sink_count,
                "projected": int(self.projected),
                "tokens": len(token_text),
                "texts": 1,
                **({} if self.weight is None else {"weight": self.weight}),
                **netcdf.versions(),
            },
        )


def coefficients(
    captured: Capture,
    layer: int,
    query_position: int,
    wavelet: str | WaveletOptions = "haar",
    level: int | None = None,
    *,
    model: nn.Module | None = None,
    **options: Any,
) -> xr.Dataset:
    """The signed coefficients of one query's contributions in one layer, every head and channel.

    One variable a band, lowest first, (head, index_<band>, channel); arguments as of `spectrum`, which keeps
    only their means. `index_<band>` counts coefficients: for Haar in "dwt" number i of D_k compares positions
    start + i 2^k ... with the 2^(k-1) after them, start (an attribute) being the first token transformed; in "swt"
    it counts positions from start on.
    """
    chosen = WaveletOptions.of(wavelet, level, **options)
    transform = chosen.transform_for(query_position)
    contributions = captured.contributions(layer, query_position, model)[:, chosen.start :]
    bands = transform.coefficients(contributions.transpose(1, 2))
    arrays = {
        name: (("head", f"index_{name}", "channel"), band.transpose(1, 2).cpu().numpy())
        for name, band in zip(transform.names, bands, strict=True)
    }
    attrs = {"wavelet": chosen.wavelet, "mode": chosen.mode, "transform": chosen.transform}
    place = {"start": chosen.start, "layer": layer, "query_position": query_position, "model": captured.model}
    return xr.Dataset(arrays, attrs={**attrs, **place})
