"""How much cache each head needs, from the finest wavelet band of its contributions along the gradient of the loss.

    needed = analysis.need(captured)                      # (layer, head), no simulation
    analysis.need_budgets(needed, cache_size=128)         # tokens for each KV head, 128 on average

What neighbours in a tree cannot represent is how they differ: the finest band D1. The damage of a head falls about as
energy / tokens, so the sum of damages is least where tokens follow the square root of the energy.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
import xarray as xr

from analysis.captures.data import Capture
from analysis.progress import Progress
from treekv.errors import TreeKVError

EVERY: Final = 64  # every so many tokens one is a query
DISTANCE: Final = 64  # tokens nearer than this to the query are not counted: every policy keeps them
SINKS: Final = 4
# Budgets lie between these multiples of their mean: 24 and 640 for 128.
LEAST, MOST = 0.1875, 5.0


def need(
    captured: Capture, *, every: int = EVERY, distance: int = DISTANCE, progress: Progress | None = None
) -> xr.DataArray:
    """Energy of the finest Haar band of the loss-weighted contributions over the far context, per KV head.

    For a query t and a query head the signal is s_j = a_t[j] (v_j . g_t), with g the gradient of the text's loss
    along the head's output, over tokens at least `distance` older than the query, without the first 4 (the sinks).
    need = mean over the queries of the sum of squared D1 coefficients, (s_j - s_(j+1))^2 / 2 over disjoint pairs,
    summed over the query heads of the group.

    Args:
        captured: a capture with gradients.
        every: every so many tokens one is a query; the last token, which predicts nothing, is none.
        distance: how much older than the query a token has to be.
        progress: called with (layers done, layers).

    Returns:
        float64 (layer, head) in nats squared; heads are KV heads. attrs: every, distance, queries (how many), model.

    Raises:
        TreeKVError: a capture without gradients, a number below 1, or a text in which no query has two such tokens.
    """
    captured.check_sensitivity()
    if every < 1 or distance < 1:
        raise TreeKVError(f"every and distance must be at least 1, got {every} and {distance}")
    first = distance + SINKS + 1  # the first query that sees a pair
    queries = [t for t in range(every, captured.tokens - 1, every) if t >= first]
    if not queries:
        least = -(-first // every) * every + 2
        raise TreeKVError(
            f"need looks {distance} tokens back and takes at least {least} tokens; the text has {captured.tokens}"
        )
    energy = np.empty((len(captured.layers), captured.kv_heads))
    pairs = (captured.tokens - SINKS) // 2
    second = torch.arange(pairs) * 2 + SINKS + 1  # the younger token of each pair
    far = second[None] <= torch.tensor(queries)[:, None] - distance  # [queries, pairs]
    for row, layer in enumerate(captured.layers):
        values = captured.v[row].float()
        gradient = captured.gradient(layer)[:, queries].unflatten(0, (captured.kv_heads, -1))
        weights = captured.weights(layer, queries).unflatten(0, (captured.kv_heads, -1))
        signal = weights * (gradient @ values[:, None].mT)  # [kv_heads, group, queries, T]
        even, odd = signal[..., SINKS : SINKS + 2 * pairs].unflatten(-1, (pairs, 2)).unbind(-1)
        squares = (even - odd).double().square() * far.to(even.device) / 2
        energy[row] = (squares.sum((1, 2, 3)) / len(queries)).cpu().numpy()
        if progress is not None:
            progress(row + 1, len(captured.layers))
    return xr.DataArray(
        energy,
        dims=("layer", "head"),
        coords={
            "layer": np.asarray(captured.layers, np.int32),
            "head": np.arange(captured.kv_heads, dtype=np.int32),
        },
        name="need",
        attrs={
            "long_name": "energy of D1 along the gradient",
            "units": "nats squared",
            "every": every,
            "distance": distance,
            "queries": len(queries),
            "model": captured.model,
        },
    )


def need_budgets(
    needed: xr.DataArray, cache_size: int, *, least: int | None = None, most: int | None = None
) -> xr.DataArray:
    """Tokens for each KV head, `cache_size` on average: least + m sqrt(need), at most `most`; the sum decides m.

    Args:
        needed: what `need` returns; the mean of several texts is as good.
        cache_size: mean number of tokens of a head.
        least, most: of a head; by default 3/16 and 5 times `cache_size`, 24 and 640 for 128.

    Returns:
        int64 (layer, head), whose sum is cache_size times the number of heads; coordinate `need` (layer, head) is
        what they were computed from.

    Raises:
        TreeKVError: a need that is negative or not a number, or budgets that cannot be met: `cache_size` is not between
            `least` and `most`.
    """
    least = max(1, round(LEAST * cache_size)) if least is None else least
    most = round(MOST * cache_size) if most is None else most
    if not 1 <= least <= cache_size <= most:
        raise TreeKVError(
            f"budgets of {least} to {most} tokens cannot have the mean {cache_size}; give least <= cache_size <= most"
        )
    values = needed.transpose("layer", "head").values.astype(np.float64)
    if not (np.isfinite(values) & (values >= 0)).all():
        raise TreeKVError("a need is negative or not a number; needs are energies, as analysis.need returns them")
    root = np.sqrt(values).ravel()
    if not root.any():
        root[:] = 1.0  # nothing is needed anywhere: equal budgets
    room, total = most - least, cache_size * root.size - least * root.size
    # Heads at the bound are taken out one after another; the rest shares what is left in proportion.
    order = np.argsort(-root, kind="stable")
    share = np.zeros(root.size)
    left = float(total)
    for place, head in enumerate(order):
        rest = root[order[place:]].sum()
        ideal = left * root[head] / rest if rest > 0 else left / (root.size - place)
        share[head] = min(room, ideal)
        left -= share[head]
    whole = np.floor(share + 1e-9).astype(np.int64)
    # Rounded so that the sum stays: the largest remainders get one more, below the bound.
    for head in np.argsort(-np.where(whole < room, share - whole, -1.0), kind="stable")[: int(total - whole.sum())]:
        whole[head] += 1
    return xr.DataArray(
        least + whole.reshape(values.shape),
        dims=("layer", "head"),
        coords={
            "layer": needed["layer"].values,
            "head": needed["head"].values,
            "need": (("layer", "head"), values),
        },
        name="budget",
        attrs={"long_name": "budget", "units": "tokens", "cache_size": cache_size, "least": least, "most": most},
    )
