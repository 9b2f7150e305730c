"""How much of each wavelet band a policy leaves, by distance from the query.

A window cuts all bands alike at its edge. A tree keeps one of several neighbours, so with growing distance it should
lose the fine bands first, where neighbours differ, and keep the coarse ones: the paper's argument as a measurement.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from analysis import netcdf
from analysis.captures.attention import weighted_values
from analysis.captures.data import Capture
from analysis.progress import Progress
from analysis.wavelets.bands import max_level
from analysis.wavelets.haar import band_levels, band_names, haar_wavedec
from treekv.errors import TreeKVError

FORMAT = "treekv-survival"
SINKS: Final = 4
LEVEL: Final = 8
QUERIES: Final = 8
FIRST_EDGE: Final = 8  # distances 0 to 7, then one octave each


def survival(
    captured: Capture,
    retention: xr.Dataset,
    queries: Sequence[int] | None = None,
    *,
    progress: Progress | None = None,
) -> xr.Dataset:
    """How much of the energy of each Haar band survives under each policy, by distance from the query.

    With a_j the weights of the full cache, c_j those over the tokens that a policy still holds (zero for the others)
    and W a band's components at the positions, survival is the share of the band's energy that a multiple of what is
    left can reproduce (the squared coherence):

        (sum of W(a v) W(c v))^2 / (sum of W(a v)^2 * sum of W(c v)^2)

    The sums are over layers, query heads, channels, queries and the positions of one range of distances. 1 is
    everything, 0 nothing. Along the gradient g of the text's loss, v_j . g_t takes the place of the vector v_j. The
    first 4 tokens, the sinks, are left out of the signals, not out of the weights.

    Args:
        captured: the captured text; with gradients both kinds are computed.
        retention: a record of the same text, from `simulate` or a real run.
        queries: positions of the queries; by default 8 spread over the second half of the text.
        progress: called with (layers done, layers).

    Returns:
        Dataset with `survival` (policy, band, distance), 0 to 1 and NaN where there is nothing to lose, `energy` (band,
        distance), the full cache's, mean over the queries; with gradients also `loss_survival` and `loss_energy` (nats
        squared). `distance` is the smallest of a range, `distance_end` the end of the range; bands lowest first.

    Raises:
        TreeKVError: a record of another text or other layers, or a query that is outside the text or sees too little.
    """
    captured.check_record(retention)
    if queries is None:
        half, last = captured.tokens // 2, captured.tokens - 2  # the last token predicts nothing
        queries = np.unique(np.linspace(min(half, last), last, QUERIES).astype(int)).tolist()
    queries = list(queries)
    level = min(LEVEL, max_level(min(queries, default=0) + 1 - SINKS))
    if level < 1 or max(queries) >= captured.tokens:
        raise TreeKVError(
            f"queries are {queries}; give positions from {SINKS + 1} to {captured.tokens - 1}, so that each sees "
            f"2 tokens after the {SINKS} sinks"
        )
    edges = [0, FIRST_EDGE]
    while edges[-1] <= max(queries) - SINKS:
        edges.append(2 * edges[-1])
    layers = [int(layer) for layer in retention["layer"].values]
    evicted = torch.from_numpy(retention["evicted_at"].transpose("policy", "layer", "head", "position").values)
    evicted = torch.where(evicted < 0, captured.tokens, evicted)
    kinds = ("values", "loss") if captured.has_sensitivity else ("values",)
    shape = (evicted.shape[0], level + 1, len(edges) - 1)
    sums = {kind: np.zeros((3, *shape)) for kind in kinds}
    for row, layer in enumerate(layers):
        values = captured.v[captured.layers.index(layer)]
        gradient = captured.gradient(layer) if captured.has_sensitivity else None
        weights = captured.weights(layer, queries)
        for number, t in enumerate(queries):
            signals = {"values": weighted_values(weights[:, number, : t + 1], values[:, : t + 1])}
            if gradient is not None:
                signals["loss"] = signals["values"] @ gradient[:, t, :, None]
            held = (evicted[:, row, :, : t + 1] >= t).to(values.device)
            held = held.repeat_interleave(captured.query_heads // captured.kv_heads, 1)
            mass = (held * weights[:, number, : t + 1]).sum(-1)  # [policies, query_heads]
            bins = torch.bucketize(t - torch.arange(SINKS, t + 1), torch.tensor(edges), right=True) - 1
            for kind in kinds:
                full = signals[kind][:, SINKS:]
                own = haar_wavedec(full, level, dim=1)
                for policy in range(shape[0]):
                    left = haar_wavedec(
                        full * (held[policy, :, SINKS:] / mass[policy, :, None])[..., None], level, dim=1
                    )
                    sums[kind][:, policy] += _products(own, left, bins, level, shape[2])
        if progress is not None:
            progress(row + 1, len(layers))
    arrays: dict[str, tuple[tuple[str, ...], np.ndarray, dict[str, str]]] = {}
    for kind, (cross, whole, kept) in sums.items():
        prefix, units = ("", "units of the values, squared") if kind == "values" else ("loss_", "nats squared")
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(kept > 0, cross**2 / (whole * kept), np.where(whole > 0, 0.0, np.nan))
        about = {"long_name": "share of the band's energy that survives", "units": "1"}
        arrays[f"{prefix}survival"] = (("policy", "band", "distance"), share.astype(np.float32), about)
        energy = (whole[0] / len(queries)).astype(np.float32)
        arrays[f"{prefix}energy"] = (("band", "distance"), energy, {"long_name": "energy", "units": units})
    copied = {name: retention.attrs[name] for name in ("model", "source", "configs") if name in retention.attrs}
    return xr.Dataset(
        arrays,
        coords={
            "policy": retention["policy"].values,
            "band": np.asarray(band_names(level)),
            "distance": np.asarray(edges[:-1], np.int32),
            "distance_end": ("distance", np.asarray(edges[1:], np.int32)),
        },
        attrs={
            "format": FORMAT,
            "format_version": netcdf.FORMAT_VERSION,
            "queries": len(queries),
            "tokens": captured.tokens,
            **copied,
            **netcdf.versions(),
        },
    )


def _products(own: list[Tensor], left: list[Tensor], bins: Tensor, level: int, count: int) -> np.ndarray:
    """[3, bands, distances]: sums of own * left, own^2 and left^2 of the components, over heads and channels.

    The component of D_k at a position is its coefficient divided by 2^(k/2), up to a sign that both share.
    """
    found = np.empty((3, level + 1, count))
    index = torch.arange(len(bins))
    for row, (a, b, k) in enumerate(zip(own, left, band_levels(level), strict=True)):
        products = torch.stack([(x * y).sum((0, 2), dtype=torch.float64) for x, y in ((a, b), (a, a), (b, b))])
        laid = products.cpu()[:, index >> k] * 2.0**-k
        for number in range(3):
            found[number, row] = torch.bincount(bins, weights=laid[number], minlength=count).numpy()
    return found
