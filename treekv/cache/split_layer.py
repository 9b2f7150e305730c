"""A compressed layer whose KV heads have capacities of their own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from treekv.attention.interface import AttentionCall, attach_handler
from treekv.attention.rotary import Rotary
from treekv.cache.attend import NewTokens, checked
from treekv.cache.layer import TreeKVLayer
from treekv.cache.padding import TokenPositions
from treekv.cache.pooled_step import Pool, attend, can_pool, fits
from treekv.cache.slot_plan import TokenPlan
from treekv.config import TreeKVConfig
from treekv.errors import TreeKVError
from treekv.transformers_releases import CacheLayer


def split_layers(
    config: TreeKVConfig, rotaries: list[Rotary | None], heads: int | None
) -> tuple[list[tuple[TreeKVConfig, list[TreeKVLayer]]], list[SplitLayer]]:
    """Layers in parts by the capacity of their heads, or each head a part where they share what they keep.

    Args:
        config: the settings.
        rotaries: of each layer.
        heads: how many KV heads the model has, if it says so.

    Returns:
        The parts that have the same settings, which share a group, and the layers.
    """
    if not isinstance(heads, int):
        raise TreeKVError(f"{config.why_heads_differ}, but the model's configuration has no num_key_value_heads")
    groups: dict[TreeKVConfig, list[TreeKVLayer]] = {}
    layers = []
    for number, configs in enumerate(config.per_head(len(rotaries), heads)):
        alike = [[head for head, other in enumerate(configs) if other == own] for own in dict.fromkeys(configs)]
        parts = []
        for numbers in [[head] for head in range(heads)] if config.share_heads else alike:
            parts.append(TreeKVLayer(rotaries[number], number, len(rotaries), numbers))
            groups.setdefault(configs[numbers[0]], []).append(parts[-1])
        layers.append(SplitLayer(parts))
    return list(groups.items()), layers


class SplitLayer(CacheLayer):
    """One full-attention layer in parts, each of the KV heads of one capacity.

    A head attends by itself, so the heads of a part are rows of a batch to it: everything that rows can do (states of
    their own, padding, selection) heads can. Nothing is padded to the largest head. One new token of one row is
    attended to by all parts at once (see `pooled_step`), and where heads share what they keep of a prompt, that is
    decided together after all have attended.

    Args:
        parts: which together have every head once.
    """

    def __init__(self, parts: list[TreeKVLayer]) -> None:
        super().__init__()
        self.parts = parts
        order = [number for part in parts for number in part.head_numbers or ()]
        self._heads = len(order)
        self._in_order = order == sorted(order)
        self._order, self._inverse = torch.tensor(order), torch.tensor(order).argsort()
        self._pool: Pool | None = None

    # ------------------------------------------------------------------ what transformers calls

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        for part in self.parts:
            part.lazy_initialization(key_states, value_states)

    @property
    def is_initialized(self) -> bool:
        return self.parts[0].is_initialized

    @is_initialized.setter
    def is_initialized(self, value: bool) -> None:
        """transformers sets it; the parts know."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if key_states.shape[1] != self._heads:
            raise TreeKVError(
                f"the cache was made for {self._heads} KV heads, but layer {self.parts[0].number} of the model has "
                f"{key_states.shape[1]}"
            )
        for part in self.parts:
            part.expect(key_states, value_states)
        return attach_handler(key_states, self), value_states

    def attend(self, call: AttentionCall) -> Tensor:
        """See `treekv.attention.interface.AttentionHandler`."""
        batch, heads = call.key.shape[:2]
        query, key, value = call.query.unflatten(1, (heads, -1)), call.key, call.value
        sink = call.scoring.sink
        if sink is not None:
            sink = sink.unflatten(1, (heads, -1)).expand(batch, -1, -1)
        if not self._in_order:
            order = self._on(key.device)[0]
            query, key, value = (each.index_select(1, order) for each in (query, key, value))
            sink = None if sink is None else sink.index_select(1, order)
        plans = self._plans(call)
        if plans is not None:
            return self._in_model_order(self._attend_pooled(call, plans, query.flatten(1, 2), key, value), heads)
        self._pool = None  # its memory stays with the parts as long as they use it
        outputs, first = [], 0
        for part in self.parts:
            n = part.heads_as_rows
            own = slice(first, first + n)
            padding = None if call.padding is None else call.padding.repeat_interleave(n, 0)
            asked = AttentionCall(
                query[:, own].flatten(0, 1),
                key[:, own].flatten(0, 1)[:, None],
                value[:, own].flatten(0, 1)[:, None],
                padding,
                call.scoring if sink is None else call.scoring._replace(sink=sink[:, own].flatten(0, 1)),
                self._position_ids(call.position_ids, n),
            )
            outputs.append(part.attend(asked).unflatten(0, (batch, n)))
            first += n
        if self.parts[0].waiting:
            self.parts[0].owner.share_prompts(self.parts)
        output = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)
        return self._in_model_order(output.flatten(1, 2), heads)

    def _plans(self, call: AttentionCall) -> list[TokenPlan] | None:
        """The plan of each part, if all of them can take one new token together."""
        if len(self.parts) == 1 or not can_pool(call) or not all(part.awaits_attention for part in self.parts):
            return None
        plans = []
        for part in self.parts:
            plan = part.owner.plan_token(part)
            if plan is None or not fits(part, plan):
                return None
            plans.append(plan)
        return plans

    def _attend_pooled(
        self, call: AttentionCall, plans: list[TokenPlan], query: Tensor, key: Tensor, value: Tensor
    ) -> Tensor:
        """One new token of all parts, whose heads are in their order."""
        if self._pool is None or not self._pool.holds(self.parts):
            self._pool = Pool(self.parts)
        first = self.parts[0]
        seen = [] if call.position_ids is not None else [plans[0].seen]
        positions = TokenPositions(call.position_ids, slice(0, 1), 0, seen, key.device)
        new = NewTokens(query, key, value, call.scoring, positions)
        output, observed = attend(self._pool, new, plans, first.rotary)
        checked(self.parts[-1], output, 1)
        for number, part in enumerate(self.parts):
            group = query.shape[1] // key.shape[1]
            part.owner.collect_token(part, None if observed is None else observed[number], group)
            part.forget_call()
            part.tokens_seen += 1
            part.awaits_attention = False
        return output

    def _in_model_order(self, output: Tensor, heads: int) -> Tensor:
        """The output [batch, query_heads, q, dim] with the heads in the order of the model."""
        if self._in_order:
            return output
        by_head = output.unflatten(1, (heads, -1))
        return by_head.index_select(1, self._on(output.device)[1]).flatten(1, 2)

    def get_seq_length(self) -> int:
        return self.parts[0].get_seq_length()

    def mask_sizes(self, queries: int) -> tuple[int, int]:
        return max(part.mask_sizes(queries) for part in self.parts)  # by the longest part

    def reset(self) -> None:
        """Forget everything and free the memory."""
        self._pool = None
        for part in self.parts:
            part.reset()

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self._pool = None
        for part in self.parts:
            part.reorder_cache(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        self._pool = None
        for part in self.parts:
            part.batch_select_indices(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        self._pool = None
        for part in self.parts:
            part.batch_repeat_interleave(repeats)

    def offload(self) -> None:
        self._pool = None
        for part in self.parts:
            part.offload()

    def prefetch(self) -> None:
        for part in self.parts:
            part.prefetch()

    # ------------------------------------------------------------------ details

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if self._order.device != device:
            self._order, self._inverse = self._order.to(device), self._inverse.to(device)
        return self._order, self._inverse

    def _position_ids(self, position_ids: Tensor | None, n: int) -> Tensor | None:
        """Positions of `n` heads as rows."""
        if position_ids is None or position_ids.shape[0] == 1:
            return position_ids
        return position_ids.repeat_interleave(n, 0)
