"""One token of a layer whose heads have capacities of their own: all attend together, over one piece of memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor

from treekv.attention.interface import AttentionCall
from treekv.attention.rotary import Rotary
from treekv.cache.attend import NewTokens, rotate_new, value_norms
from treekv.cache.slot_plan import TokenPlan
from treekv.cache.slots import Slots

# Each query is multiplied with the keys of all heads, which is more work for more heads; with few it is the calls that
# take time. A batch would be multiplied with that of other rows too.
MOST_HEADS: Final = 8


class Pool:
    """The slots of the parts of a layer in one tensor, of which theirs are views.

    Args:
        parts: the parts; their slots are replaced by views of the pool. What gives a part other slots later does not
            change the pool, and `holds` says so.
    """

    def __init__(self, parts: Sequence[Slots]) -> None:
        sizes = [part.batch * part.slots for part in parts]
        self._ends = torch.tensor(sizes).cumsum(0).tolist()
        self._shapes = [part.keys.shape[:3] for part in parts]
        self.keys = torch.cat([part.keys.flatten(0, 2) for part in parts])
        self.values = torch.cat([part.values.flatten(0, 2) for part in parts])
        slots = torch.tensor([slots for rows, _, slots in self._shapes for _ in range(rows)])  # of each head
        self._first = (slots.cumsum(0) - slots).to(self.keys.device)
        heads = torch.arange(len(slots))
        others = heads[:, None] != heads.repeat_interleave(slots)
        #: [heads, 1, slots], what is added to logits: minus infinity where a slot is another head's.
        self.mask = torch.zeros_like(others, dtype=self.keys.dtype).masked_fill_(others, float("-inf"))[:, None]
        self.mask = self.mask.to(self.keys.device)
        self._views = list(zip(self.split(self.keys), self.split(self.values), strict=True))
        for part, (keys, values) in zip(parts, self._views, strict=True):
            part.keys, part.values = keys, values

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        """Copies of the parts make a pool of their own."""

    def split(self, pooled: Tensor) -> list[Tensor]:
        """Views of something by slot [slots, ...] for each part, [rows, 1, its slots, ...]."""
        starts = [0, *self._ends[:-1]]
        return [
            pooled[start:end].view(*shape, *pooled.shape[1:])
            for start, end, shape in zip(starts, self._ends, self._shapes, strict=True)
        ]

    def holds(self, parts: Sequence[Slots]) -> bool:
        """Whether the slots of the parts are still here."""
        views = zip(parts, self._views, strict=True)
        return all(part.keys is keys and part.values is values for part, (keys, values) in views)

    def write(self, slots: Sequence[Tensor], key: Tensor, value: Tensor) -> None:
        """Put a token at `slots` of each part [rows, 1, 1]; `key`, `value` [heads, dim] in the order of the parts."""
        index = torch.cat([own.reshape(-1) for own in slots]) + self._first
        self.keys.index_copy_(0, index, key)
        self.values.index_copy_(0, index, value)


def can_pool(call: AttentionCall) -> bool:
    """Whether a call is of the kind that `attend` computes: one new token of one row, with plain attention."""
    rows, heads, q = call.key.shape[:3]
    return (
        rows == q == 1
        and 1 < heads <= MOST_HEADS
        and call.padding is None
        and call.scoring.is_plain
        and not torch.compiler.is_compiling()
        and not any(each.requires_grad for each in (call.query, call.key, call.value))
    )


def fits(part: Slots, plan: TokenPlan) -> bool:
    """Whether every slot of a part is used once the new token is there."""
    slots = plan.slots
    return slots.all_used and slots.used == part.slots and slots.padded_capacity <= part.slots


def attend(
    pool: Pool, new: NewTokens, plans: Sequence[TokenPlan], rotary: Rotary | None
) -> tuple[Tensor, list[Tensor] | None]:
    """Store a token and attend to all slots.

    Args:
        pool: it holds the parts of the layer.
        new: the token, heads in the order of the parts: `query` [1, query_heads, 1, head_dim].
        plans: of each part, which it `fits`.
        rotary: of the layer, if keys are stored unrotated.

    Returns:
        The output [1, query_heads, 1, dim], and of each part what the queries saw, as of `attend_block`, if that is
        recorded.
    """
    query, key = new.query, new.key
    if rotary is not None:
        query, key = rotate_new(rotary, new)
    pool.write([plan.slots.slots for plan in plans], key[0, :, 0], new.value[0, :, 0])
    keys, values, observation = pool.keys, pool.values, plans[0].observation
    if rotary is not None:
        distance = torch.cat([_distance(plan).reshape(-1) for plan in plans])
        keys = rotary.at_distance(keys, distance, max(plan.table_size for plan in plans))
    heads = key.shape[1]
    query = query.view(heads, -1, query.shape[3])  # of the group of each
    if observation is None:
        output = torch.nn.functional.scaled_dot_product_attention(
            query[None],
            keys.expand(1, heads, -1, -1),
            values.expand(1, heads, -1, -1),
            attn_mask=pool.mask,
            scale=new.scoring.scaling,
        )
        return output.flatten(1, 2)[:, :, None], None
    # One product: a batch of small ones is several times slower in half precision on a CPU.
    logits = ((query * new.scoring.scaling).flatten(0, 1) @ keys.T).view(heads, -1, len(keys)) + pool.mask
    weights = logits.softmax(-1, dtype=torch.float32).flatten(0, 1)
    output = (weights.to(values.dtype) @ values)[None, :, None]
    seen = weights.sum(0)  # a slot has weight from the queries of its own head only
    if observation.times_value_norm:
        seen = seen * value_norms(values)
    return output, pool.split(seen)


def _distance(plan: TokenPlan) -> Tensor:
    assert plan.slots.distance is not None  # a plan for a layer with a rotary embedding has it
    return plan.slots.distance
