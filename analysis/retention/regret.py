"""Regret: what each evicted token would still have been worth, along the gradient of the loss.

lost = analysis.regret(captured, retention)          # (policy, layer, head, position), nats
analysis.most_costly(captured, retention, lost, "tree")  # the most costly evictions in words
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from analysis.captures.data import Capture
from analysis.progress import Progress
from treekv.errors import TreeKVError

QUERIES_AT_ONCE: Final = 128  # bounds the weights that exist at a time
NEIGHBOURS: Final = 3  # tokens before and after a token that are quoted with it


def regret(captured: Capture, retention: xr.Dataset, progress: Progress | None = None) -> xr.DataArray:
    """What the absence of each evicted token costs, to second order, had all others been kept.

    Leaving token j out of query t's softmax moves the output by a / (1 - a) (output - v_j), with a its weight. So

        regret_j = 1/2 sum over the queries t after j was evicted of
                   (sum over the query heads of the group of a / (1 - a) g_t . (output_t - v_j))^2

    with g the gradient of the text's loss along the output. It is the damage of one eviction by itself; evictions that
    go together can cost more or less than the sum.

    Args:
        captured: a capture with gradients.
        retention: a record of the same text, from `simulate` or a real run.
        progress: called with (layers done, layers).

    Returns:
        float32 (policy, layer, head, position) in nats of the whole text; heads are KV heads, and a token that stays
        has 0. The record's coordinates are copied.

    Raises:
        TreeKVError: a capture without gradients, or a record of another text or other layers.
    """
    captured.check_sensitivity()
    captured.check_record(retention)
    evicted_at = retention["evicted_at"].transpose("policy", "layer", "head", "position")
    evicted = torch.from_numpy(evicted_at.values)
    evicted = torch.where(evicted < 0, captured.tokens, evicted)
    values = np.empty(evicted_at.shape, np.float32)
    layers = [int(layer) for layer in retention["layer"].values]
    for row, layer in enumerate(layers):
        values[:, row] = _layer_regret(captured, layer, evicted[:, row]).cpu().numpy()
        if progress is not None:
            progress(row + 1, len(layers))
    return xr.DataArray(
        values,
        dims=evicted_at.dims,
        coords=evicted_at.coords,
        name="regret",
        attrs={"long_name": "regret", "units": "nats", "model": captured.model},
    )


def _layer_regret(captured: Capture, layer: int, evicted: Tensor) -> Tensor:
    """float64 [policies, kv_heads, T], from the position at which each token is evicted, which still sees it."""
    values = captured.v[captured.layers.index(layer)].float()
    gradient = captured.gradient(layer)
    evicted = evicted.to(values.device)
    kv_heads, last = captured.kv_heads, captured.tokens - 1
    total = torch.zeros(evicted.shape, dtype=torch.float64, device=values.device)
    for first in range(0, last, QUERIES_AT_ONCE):
        positions = range(first, min(first + QUERIES_AT_ONCE, last))
        seen = positions[-1] + 1
        weights = captured.weights(layer, positions)[..., :seen].unflatten(0, (kv_heads, -1))
        along = gradient[:, positions[0] : seen].unflatten(0, (kv_heads, -1)) @ values[:, None, :seen].mT
        output = (weights * along).sum(-1, keepdim=True)
        # A weight of one leaves nothing else to attend to; no policy evicts such a token and is asked about it.
        moved = (weights / (1 - weights).clamp_min(1e-6) * (output - along)).sum(1)  # [kv_heads, queries, seen]
        at = torch.arange(positions[0], seen, device=values.device)
        missed = evicted[:, :, None, :seen] < at[:, None]
        total[..., :seen] += (moved.double().square() * missed).sum(2) / 2
    return total


def most_costly(
    captured: Capture, retention: xr.Dataset, found: xr.DataArray, policy: str, *, most: int = 10
) -> list[str]:
    """The evictions with the most regret in words, one sentence a token, the most costly first.

    Args:
        captured, retention: as `regret` was given them.
        found: what it returned.
        policy: one of the record's.
        most: tokens.

    Raises:
        TreeKVError: a policy that the record does not have, or fewer than one token.
    """
    if most < 1:
        raise TreeKVError(f"most must be at least 1, got {most}")
    if policy not in found["policy"].values:
        raise TreeKVError(f"the record has no policy {policy!r}, only {', '.join(map(str, found['policy'].values))}")
    by_head = found.sel(policy=policy).transpose("layer", "head", "position")
    evicted_at = retention["evicted_at"].sel(policy=policy).transpose("layer", "head", "position").values
    by_token = by_head.values.astype(np.float64).sum((0, 1))
    sentences = []
    for position in np.argsort(-by_token, kind="stable")[:most]:
        if by_token[position] <= 0:
            break
        row, head = np.unravel_index(int(by_head.values[..., position].argmax()), by_head.shape[:2])
        gone = evicted_at[..., position]
        gone = gone[gone >= 0]
        around = captured.token_text[max(position - NEIGHBOURS, 0) : position + NEIGHBOURS + 1]
        quoted = " ".join("".join(around).split())
        sentences.append(
            f"Token {position:,} {captured.token_text[position].strip()!r} (\u201c\u2026{quoted}\u2026\u201d): "
            f"{by_token[position]:.3g} nats, evicted in {len(gone)} of {evicted_at[..., position].size} heads between "
            f"steps {gone.min():,} and {gone.max():,}; most costly in layer {by_head['layer'].values[row]}, head "
            f"{by_head['head'].values[head]}, evicted at {evicted_at[row, head, position]:,}."
        )
    return sentences
