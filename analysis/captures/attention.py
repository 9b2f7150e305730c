"""Attention weights and token contributions as tensors, and the part of the output projection that follows each head.

Source: He et al., TreeKV, arXiv 2501.04987. The projected form is ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from treekv.attention import softmax
from treekv.errors import TreeKVError

# Names of the output projection in transformers' model families.
_PROJECTIONS = ("o_proj", "out_proj", "dense", "c_proj", "wo")


def attention_weights(q: Tensor, k: Tensor, scaling: float, positions: Sequence[int]) -> Tensor:
    """Softmax weights, float32 [query_heads, queries, T], zero after each query.

    `q` [query_heads, queries, head_dim] are the queries at `positions`, `k` [kv_heads, T, head_dim] all keys.
    """
    seen = max(positions) + 1
    visible = torch.arange(seen, device=q.device) <= torch.tensor(list(positions), device=q.device)[:, None]
    weights = softmax.attention_weights(q[None].float(), k[None, :, :seen].float(), softmax.Scoring(scaling), visible)
    return F.pad(weights.view(*q.shape[:2], seen), (0, k.shape[1] - seen))


def weighted_values(weights: Tensor, v: Tensor) -> Tensor:
    """s_j = weight of token j times its value, float32 [query_heads, t, value_dim].

    `weights` is [query_heads, t], `v` [kv_heads, t, value_dim].
    """
    by_group = weights.unflatten(0, (v.shape[0], -1))
    return (by_group.unsqueeze(-1) * v.float().unsqueeze(1)).flatten(0, 1)


def output_weights(model: nn.Module, layer: int, query_heads: int) -> Tensor:
    """The part of the model's output projection for each head: float32 [query_heads, value_dim, hidden].

    A head's contribution [..., value_dim] times its matrix is what that head adds to the residual stream,
    before any norm that follows; a bias of the projection belongs to no token and is omitted. Raises
    TreeKVError when the model has no such layer or none that divides into the heads.
    """
    for module in model.modules():
        if getattr(module, "layer_idx", None) != layer:
            continue
        for name in _PROJECTIONS:
            projection = getattr(module, name, None)
            weight = getattr(projection, "weight", None)
            if weight is None:
                continue
            # nn.Linear keeps [out, in]; GPT-2's Conv1D keeps [in, out].
            weight = weight if type(projection).__name__ == "Conv1D" else weight.T
            if weight.shape[0] % query_heads:
                raise TreeKVError(
                    f"the output projection of layer {layer} takes {weight.shape[0]} channels, which "
                    f"{query_heads} query heads do not divide"
                )
            return weight.detach().float().unflatten(0, (query_heads, -1))
    raise TreeKVError(
        f"layer {layer} of this {type(model).__name__} has no known output projection "
        f"({', '.join(_PROJECTIONS)}); take the contributions before the projection"
    )
