"""One attention call of one layer: what is computed, and what its queries saw."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from treekv.attention import softmax
from treekv.attention.rotary import Rotary
from treekv.attention.softmax import Scoring
from treekv.cache.future import scores_from_after
from treekv.cache.latent_layer import LatentLayer
from treekv.cache.observation import Observation
from treekv.cache.padding import TokenPositions
from treekv.cache.slot_plan import SlotPlan
from treekv.cache.slots import Slots
from treekv.errors import TreeKVError
from treekv.policies.scores import EXPECTED
from treekv.policies.settings import Settings


class NewTokens(NamedTuple):
    """New tokens of some rows, without padding.

    `query` [rows, query_heads, q, head_dim]; `key`, `value` [rows, kv_heads, q, head_dim], after rotary embedding;
    `latents` [rows, 1, q, dim], of latent attention, what is stored instead of these.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    scoring: Scoring
    positions: TokenPositions
    latents: tuple[Tensor, Tensor] | None = None

    @property
    def differentiable(self) -> bool:
        """Whether a gradient will pass through them."""
        return torch.is_grad_enabled() and any(t.requires_grad for t in self[:3])

    def part(self, first: int, last: int) -> NewTokens:
        """The tokens first ... last - 1."""
        query, key, value = (t[:, :, first:last] for t in self[:3])
        latents = self.latents and (self.latents[0][:, :, first:last], self.latents[1][:, :, first:last])
        return NewTokens(query, key, value, self.scoring, self.positions.after(first), latents)


def attend_all(layer: Slots, rows: slice, new: NewTokens, held: list[int], reserved: int) -> Tensor:
    """Append q tokens to rows that hold `held` tokens each, and attend to everything: [rows, query_heads, q, dim].

    With `reserved` slots at least; rows that hold different numbers take one token each.
    """
    q, longest = new.key.shape[2], max(held)
    layer.reserve(reserved)
    visible = None
    if new.differentiable or min(held) < longest or new.latents is not None:
        slots = torch.tensor(held, device=new.key.device)[:, None, None] + torch.arange(q, device=new.key.device)
        slots = slots.expand(-1, layer.keys.shape[1], -1)
        keys, values = _write(layer, rows, slots, new, new.key)
        keys, values = keys[:, :, : longest + q], values[:, :, : longest + q]
        if min(held) < longest:
            visible = torch.arange(longest + 1, device=keys.device) <= slots[:, :1, :, None]
    else:
        keys, values = (t[:, :, : longest + q] for t in layer.view(rows))
        keys[:, :, longest:], values[:, :, longest:] = new.key.detach(), new.value.detach()
    return softmax.causal_attention(new.query, keys, values, new.scoring, visible)


def attend_prompt(new: NewTokens) -> Tensor:
    """Attend to a whole prompt at its true positions."""
    return softmax.causal_attention(new.query, new.key, new.value, new.scoring)


def prompt_scores(new: NewTokens, window: int, observation: Observation) -> tuple[Tensor, Tensor]:
    """Sums and counts of the last `window` queries of a prompt; see `softmax.window_scores`."""
    sums, counts = softmax.window_scores(new.query.detach(), new.key.detach(), new.scoring, window, observation.delay)
    if observation.times_value_norm:
        sums = sums * value_norms(new.value.detach())
    return (sums if new.latents is None else sums.mean(1, keepdim=True)), counts


def prompt_future(rotary: Rotary | None, new: NewTokens, by: str, settings: Settings) -> Tensor:
    """What queries from after a prompt would see of it; see `scores_from_after`."""
    query, key = new.query.detach(), new.key.detach()
    scores = scores_from_after(by, settings, query, key, new.scoring, new.positions.true(key.shape[2]), rotary)
    if by == EXPECTED or settings.importance == "contribution":
        scores = scores * value_norms(new.value.detach())
    return scores if new.latents is None else scores.sum(1, keepdim=True)


def remember_queries(layer: Slots, rows: slice, new: NewTokens, most: int) -> None:
    """Cache the last `most` queries of some rows, these included, in the form of stored keys."""
    q = new.query.shape[2]
    last = new.part(max(q - most, 0), q)
    query, layer.scaling = last.query, new.scoring.scaling
    if layer.rotary is not None:
        query = layer.rotary.unrotated(query, last.positions.true(query.shape[2]))
    layer.remember(rows, query, most)


def store_prompt(layer: Slots, rows: slice, new: NewTokens, kept: Tensor, slots: int) -> None:
    """Store the tokens at `kept` LongTensor [rows, kv_heads, k] of a prompt, with `slots` slots at least."""
    layer.reserve(slots)
    key, value = new.latents or (new.key, new.value)
    if layer.rotary is not None:
        key = layer.rotary.unrotated(key, new.positions.true(key.shape[2]))
    layer.fill(rows, kept, key, value, new.differentiable)


def attend_block(
    layer: Slots,
    rows: slice,
    new: NewTokens,
    plan: SlotPlan,
    observation: Observation | None,
    table_size: int,
) -> tuple[Tensor, Tensor | None]:
    """Store q tokens where the plan says, and attend to all that are kept and, causally, to themselves.

    Args:
        layer: its slots are changed.
        rows: rows of the batch.
        new: q tokens of each row.
        plan: their slots.
        observation: what to record, if anything.
        table_size: no distance in the plan reaches this.

    Returns:
        The output [rows, query_heads, q, dim], and what the queries saw by slot, float32 [rows, kv_heads, plan.used],
        summed over the query heads of each KV head; [rows, kv_heads, q, plan.used] of several tokens that are recorded
        query by query.
    """
    q, query, key, rotary = new.key.shape[2], new.query, new.key, layer.rotary
    layer.reserve(plan.padded_capacity)
    if rotary is not None:
        query, key = rotate_new(rotary, new)
    keys, values = _write(layer, rows, plan.slots, new, key)
    if plan.used < keys.shape[2]:
        keys, values = keys[:, :, : plan.used], values[:, :, : plan.used]
    if rotary is not None:
        distance = plan.distance if plan.lookup is None else plan.lookup
        assert distance is not None  # a plan for a layer with a rotary embedding has it
        if not plan.all_used and plan.lookup is None:
            distance = distance.clamp(min=0)
        keys = rotary.at_distance(keys, distance, table_size)
    if observation is None and plan.mask is not None and new.scoring.is_plain:
        return softmax.masked_attention(query, keys, values, new.scoring, plan.mask), None
    visible = softmax.visible(plan.distance, q, plan.all_used)
    if observation is None:
        return softmax.masked_attention(query, keys, values, new.scoring, visible), None
    output, weights = softmax.observed_attention(query, keys, values, new.scoring, visible)
    if new.latents is not None:  # all heads share what is kept
        weights = weights * value_norms(values)[:, :, None] if observation.times_value_norm else weights
        weights, observation = weights.flatten(1, 2)[:, None], observation._replace(times_value_norm=False)
    return output, _observed(weights, values, q, observation)


def attend_block_again(rows: slice, plan: SlotPlan, table_size: int, layer: Slots, new: NewTokens) -> Tensor:
    """The output of `attend_block` for the same new tokens, with queries of another layer."""
    return attend_block(layer, rows, new, plan, None, table_size)[0]


def _write(layer: Slots, rows: slice, slots: Tensor, new: NewTokens, key: Tensor) -> tuple[Tensor, Tensor]:
    """Put new tokens, their keys in stored form, at `slots`; returns keys and values of all slots of these rows."""
    if new.latents is None:
        return layer.write(rows, slots, key, new.value, new.differentiable)
    assert isinstance(layer, LatentLayer)  # no other has latents
    return layer.write_new(rows, slots, key, new.value, new.latents)


def checked(layer: Slots, output: Tensor, q: int) -> Tensor:
    """The output, if it is made of finite numbers.

    NaN spreads to all later layers, so while decoding it is enough to check the last one; on a GPU it is not
    checked then, since each step would have to wait. A call that is refused counts as unfinished, so the cache
    cannot be used further.
    """
    checks = q > 1 or (layer.number == layer.layers - 1 and output.is_cpu)
    if checks and not torch.compiler.is_compiling() and not _is_finite(output, q):
        where = f"layer {layer.number}" if q > 1 else "the model"
        raise TreeKVError(
            f"the attention of {where} is not made of finite numbers (the model computes in {output.dtype}); try "
            "torch.float32 or torch.bfloat16, and cache.reset() before continuing"
        )
    return output


def _is_finite(output: Tensor, q: int) -> bool:
    # A sum is one kernel instead of five, which count in a step; of a long block they are faster than double precision.
    if q == 1 and output.is_cpu:
        return math.isfinite(output.sum(dtype=torch.float64).item())
    return bool(output.isfinite().all())


def value_norms(values: Tensor) -> Tensor:
    """float32 [batch, kv_heads, n], the length of each value."""
    return torch.linalg.vector_norm(values, dim=-1, dtype=torch.float32)


def _observed(weights: Tensor, values: Tensor, q: int, observation: Observation) -> Tensor:
    """From `weights` [rows, kv_heads, group * q, n] to what is recorded [rows, kv_heads, n] or, of each query, [rows,
    kv_heads, q, n]."""
    if weights.requires_grad:
        weights, values = weights.detach(), values.detach()
    if q > 1:
        by_query = weights.unflatten(2, (-1, q))
        if observation.by_query:
            return by_query.sum(2)
        weights = by_query.sum(3) if observation.accumulates else by_query[:, :, :, -1]
    observed = weights.sum(2)
    return observed * value_norms(values) if observation.times_value_norm else observed


def rotate_new(rotary: Rotary, new: NewTokens) -> tuple[Tensor, Tensor]:
    """Queries of new tokens rotated to their ranks, and keys in stored form."""
    shift = rotary.shift(*new.positions.columns(new.key.shape[2]))
    if shift.to_rank is not shift.unrotate:
        return rotary.rotate(new.query, shift.to_rank), rotary.rotate(new.key, shift.unrotate)
    both = rotary.rotate(torch.cat([new.query, new.key], dim=1), shift.unrotate)
    return both[:, : new.query.shape[1]], both[:, new.query.shape[1] :]
