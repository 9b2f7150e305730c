"""A call of a layer once more, with the queries of a later layer that attends to the same keys and values."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from treekv.attention.interface import AttentionCall
from treekv.cache.attend import NewTokens
from treekv.cache.layer import TreeKVLayer


def repeat_call(
    layer: TreeKVLayer,
    call: AttentionCall,
    new_tokens: Callable[[AttentionCall, slice, slice | Tensor | None], NewTokens],
) -> Tensor:
    """Attend with the queries of `call` to what the layer attended to in its last call, of the same new tokens.

    `new_tokens` are those of a call, of some rows and of their columns that are no padding.
    """
    q, asked = call.key.shape[2], call.query.shape[2]
    # Some of these queries may not be asked for; theirs are outputs that nothing reads.
    call = call._replace(query=nn.functional.pad(call.query, (0, 0, q - asked, 0)))
    output = call.query.new_zeros((*call.query.shape[:3], call.value.shape[3]))
    every = torch.arange(q, device=output.device)
    twin, steps = layer.repeated()
    for step in steps:
        if step.rows is None:
            twin.reorder_slots(step.what)
            continue
        new = new_tokens(call, step.rows, step.real).part(step.first, step.last)
        columns = every[step.real] if isinstance(step.real, slice) else every if step.real is None else step.real
        output[step.rows, :, columns[step.first : step.last]] = step.what(twin, new)
    return output[:, :, q - asked :]
