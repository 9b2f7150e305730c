"""The loss from eviction: attention mass, change of the attention output, and damage, against the full cache.

    retention = analysis.simulate(captured, {"tree": config})
    lost = analysis.output_loss(captured, retention)
    lost["error"].mean("query")            # (policy, layer)
    lost["damage"].sum(("layer", "kv_head"))   # (policy): extra loss in nats a token, to second order

A query at position t sees the tokens that were kept when it was processed: p <= t and not evicted before t. (The
token that is evicted at step t is still seen by the query of step t.)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from analysis import netcdf
from analysis.captures.attention import output_weights
from analysis.captures.data import Capture
from analysis.progress import Progress
from analysis.retention.damage import layer_damage
from treekv.errors import TreeKVError

FORMAT = "treekv-loss"
WEIGHTS_AT_ONCE = 2**24  # weights of one layer that exist at a time: 64 MB in float32
DEFAULT_QUERIES = 64


def output_loss(
    captured: Capture,
    retention: xr.Dataset,
    queries: Sequence[int] | None = None,
    progress: Progress | None = None,
    model: nn.Module | None = None,
) -> xr.Dataset:
    """The loss of each policy of `retention` at some queries of the captured text.

    With a_j the full cache's weight of token j, v_j its value and H the kept tokens, per query head:

        mass   = sum of a_j over H
        output = sum of a_j v_j over H, divided by mass     (softmax over the kept tokens)
        error  = |output - full output| / |full output|     (Euclidean norms over all heads and channels of a layer)
        damage = 1/2 mean over the text of (sum over the heads of a group of g . (output - full output))^2

    g is the gradient of the text's loss, of captures that have it. The damage of a group is what its evictions alone
    would add to the loss, to second order; see `analysis.retention.damage`.

    Weights are those of the capture, at true positions; a real run also compresses the layers below and may
    renumber positions.

    Args:
        captured: the captured text.
        retention: a record of the same text, from `simulate` or a real run; its layers must have been captured.
        queries: positions of the queries; by default 64 spread over the second half of the text.
        progress: called with (layers done, layers).
        model: the model that was captured; when given, outputs are compared after its output projection, which
            adds the heads up (error = norm over the residual stream's channels; without the projection's bias).

    Returns:
        Dataset with `mass`, 0 to 1 (policy, layer, head, query; heads are query heads), and `error` (policy,
        layer, query), float32; `query` is the position. With gradients also `damage` (policy, layer, kv_head), float32,
        in nats a token, over all tokens of the text. The record's attrs configs, model and source are copied.

    Raises:
        TreeKVError: tokens, layers or heads of the record differ from those of the capture, a query is outside the
            text, or the model has no known output projection.
    """
    captured.check_record(retention)
    if queries is None:
        count = min(DEFAULT_QUERIES, captured.tokens)
        queries = np.unique(np.linspace(captured.tokens // 2, captured.tokens - 1, count).astype(int)).tolist()
    queries = list(queries)
    layers = [int(layer) for layer in retention["layer"].values]
    evicted = torch.from_numpy(retention["evicted_at"].transpose("policy", "layer", "head", "position").values)
    evicted = torch.where(evicted < 0, captured.tokens, evicted)
    policies = evicted.shape[0]
    mass = np.empty((policies, len(layers), captured.query_heads, len(queries)), np.float32)
    error = np.empty((policies, len(layers), len(queries)), np.float32)
    damage = np.empty((policies, len(layers), captured.kv_heads), np.float32)
    at_once = max(1, WEIGHTS_AT_ONCE // (captured.query_heads * captured.tokens))
    for row, layer in enumerate(layers):
        values = captured.v[captured.layers.index(layer)].float()
        projection = None if model is None else output_weights(model, layer, captured.query_heads).to(values.device)
        if projection is not None and projection.shape[1] != values.shape[-1]:
            raise TreeKVError(
                f"the output projection of layer {layer} takes {projection.shape[1]} channels a head, but the captured "
                f"values have {values.shape[-1]}; give the model that was captured"
            )
        for first in range(0, len(queries), at_once):
            part = slice(first, first + at_once)
            positions = queries[part]
            weights = captured.weights(layer, positions).unflatten(0, (captured.kv_heads, -1))
            full = _output(weights, values, projection)
            size = full.square().sum((0, 2)).sqrt()
            for number in range(policies):
                masked = weights * _visible(evicted[number, row].to(weights.device), positions)[:, None]
                kept = masked.sum(-1).flatten(0, 1)
                moved = _output(masked, values, projection, kept) - full
                mass[number, row, :, part] = kept.cpu().numpy()
                error[number, row, part] = (moved.square().sum((0, 2)).sqrt() / size).cpu().numpy()
        if captured.has_sensitivity:
            damage[:, row] = layer_damage(captured, layer, evicted[:, row]).numpy()
        if progress is not None:
            progress(row + 1, len(layers))
    measured = {}
    if captured.has_sensitivity:
        about = {"long_name": "extra loss to second order", "units": "nats a token"}
        measured["damage"] = (("policy", "layer", "kv_head"), damage, about)
    copied = {name: retention.attrs[name] for name in ("model", "source", "configs") if name in retention.attrs}
    return xr.Dataset(
        {
            "mass": (
                ("policy", "layer", "head", "query"),
                mass,
                {"long_name": "attention mass retained", "units": "1"},
            ),
            "error": (("policy", "layer", "query"), error, {"long_name": "relative output error", "units": "1"}),
            **measured,
        },
        coords={
            "policy": retention["policy"].values,
            "layer": np.asarray(layers, dtype=np.int32),
            "head": np.arange(captured.query_heads, dtype=np.int32),
            "query": np.asarray(queries, dtype=np.int32),
            **({"kv_head": np.arange(captured.kv_heads, dtype=np.int32)} if measured else {}),
        },
        attrs={
            "format": FORMAT,
            "format_version": netcdf.FORMAT_VERSION,
            "projected": int(model is not None),
            **copied,
            **netcdf.versions(),
        },
    )


def _output(weights: Tensor, values: Tensor, projection: Tensor | None, total: Tensor | None = None) -> Tensor:
    """[query_heads, q, value_dim] from weights [kv_heads, group, q, T], values [kv_heads, T, value_dim].

    `total` [query_heads, q] normalises weights that do not sum to 1. With `projection` [query_heads, value_dim, hidden]
    the sum of the heads' outputs after it, [1, q, hidden].
    """
    output = (weights.flatten(1, 2) @ values).unflatten(1, weights.shape[1:3]).flatten(0, 1)
    output = output if total is None else output / total[..., None]
    return output if projection is None else torch.einsum("hqd,hdo->qo", output, projection)[None]


def _visible(evicted: Tensor, positions: Sequence[int]) -> Tensor:
    """bool [kv_heads, q, T] from eviction steps [kv_heads, T]; tokens after a query have zero weight anyway."""
    at = torch.tensor(list(positions), dtype=evicted.dtype, device=evicted.device)
    return evicted[:, None] >= at[:, None]
