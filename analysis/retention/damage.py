"""The damage of an eviction, head by head: what it costs in loss, to second order, from the gradients of a capture."""

from __future__ import annotations

import torch
from torch import Tensor

from analysis.captures.data import Capture

QUERIES_AT_ONCE = 128  # bounds the weights that exist at a time, and skips tokens that none of them sees


def layer_damage(captured: Capture, layer: int, evicted: Tensor) -> Tensor:
    """E = 1/2 mean_t (sum over the group's query heads of g_t . (kept output_t - output_t))^2, nats a token.

    The outputs are those of the query heads that share a KV head, over all tokens and over those that its cache still
    holds; g is the gradient of the text's loss along them (`Capture.gradient`). The mean is over all tokens but the
    last, which predicts nothing. With a the weights of the full cache and s_j = a_j (v_j . g),
    g . (kept output - output) = (sum of s over the kept) / (sum of a over the kept) - sum of s.

    Args:
        captured: a capture with gradients.
        layer: the model's number of a captured layer.
        evicted: integers [policies, kv_heads, T], the position at which each token is evicted, which still sees it;
            T or more if it stays.

    Returns:
        float64 [policies, kv_heads], on the CPU.
    """
    values = captured.v[captured.layers.index(layer)].float()
    gradient = captured.gradient(layer)
    kv_heads, last = captured.kv_heads, captured.tokens - 1
    evicted = evicted.to(values.device)
    total = torch.zeros(evicted.shape[:2], dtype=torch.float64, device=values.device)
    for first in range(0, last, QUERIES_AT_ONCE):
        positions = range(first, min(first + QUERIES_AT_ONCE, last))
        seen = positions[-1] + 1
        weights = captured.weights(layer, positions)[..., :seen].unflatten(0, (kv_heads, -1))
        along = gradient[:, positions[0] : seen].unflatten(0, (kv_heads, -1)) @ values[:, None, :seen].mT
        signal = weights * along  # [kv_heads, group, queries, seen]
        # Sums over the kept tokens as one matrix product a query: [kv_heads, queries, 2 group, policies].
        both = torch.cat((weights, signal), dim=1).transpose(1, 2).contiguous()
        at = torch.arange(positions[0], seen, device=values.device)
        kept = (evicted[:, :, None, :seen] >= at[:, None]).float().permute(1, 2, 3, 0).contiguous()
        mass, left = (both @ kept).chunk(2, dim=2)
        moved = (left / mass - signal.sum(-1).transpose(1, 2)[..., None]).sum(2)  # [kv_heads, queries, policies]
        total += moved.double().square().sum(1).T
    return (total / (2 * last)).cpu()
