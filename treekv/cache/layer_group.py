"""Layers that decode together: one ledger for all of them, one step of it for each token instead of one a layer."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from treekv import policies
from treekv.attention import seen_distance
from treekv.attention.interface import AttentionCall
from treekv.cache.attend import (
    NewTokens,
    attend_all,
    attend_block,
    attend_block_again,
    attend_prompt,
    checked,
    remember_queries,
)
from treekv.cache.contents import StoredContents
from treekv.cache.followed_call import repeat_call
from treekv.cache.history import check_history, forget_padding
from treekv.cache.layer import TreeKVLayer
from treekv.cache.ledger import Ledger
from treekv.cache.observation import Observation
from treekv.cache.padding import TokenPositions, split_padding
from treekv.cache.reduced_prompt import choose_shared, keep, score_prompt
from treekv.cache.slot_plan import SlotPlan, TokenPlan, padded_capacity
from treekv.cache.slots import Step
from treekv.config import TreeKVConfig


class LayerGroup:
    """Layers, or parts of them, with the same settings; they share a ledger as long as they are on one device.

    The rows of the ledger are those of the first layer, then of the second, and so on. A decoded token
    falls straight through: plan its slots in all layers (`_plan_step`), attend in each layer, collect what the queries
    saw (`collect_token`), and after the last layer evict in all of them at once (`Ledger.step`).

    Args:
        config: their settings.
        layers: the layers, in order.
    """

    def __init__(self, config: TreeKVConfig, layers: list[TreeKVLayer]) -> None:
        self.config = config
        self.layers = layers
        policy = policies.of(config)
        contribution, by_query = config.importance == "contribution", policy.counts_by_query(config)
        evicts = policy.evicts_after(config)
        self._weighting = Observation(policy.accumulates, contribution, config.delay, by_query)
        # What the ledger needs of attention weights while decoding, and of queries.
        self._observation = self._weighting if policy.uses_attention and evicts else None
        self._last_queries = policy.last_queries(config) if evicts else 0
        self._ledger: Ledger | None = None
        self._plan: SlotPlan | None = None  # of the step in progress
        self._plans: list[SlotPlan] = []  # its parts, of each layer
        self._observed: list[Tensor] = []  # of the layers that have attended in it
        self._rows = 0  # of the ledger, for each row of the batch
        for index, layer in enumerate(layers):
            layer.owner, layer.group_index, layer.group_offset = self, index, self._rows
            self._rows += layer.heads_as_rows

    @property
    def ledger(self) -> Ledger:
        """The state of all layers.

        Raises:
            RuntimeError: no layer has seen a token yet.
        """
        if self._ledger is None:
            raise RuntimeError("the ledger is allocated with the first token")
        return self._ledger

    @property
    def allocated(self) -> bool:
        return self._ledger is not None

    # ------------------------------------------------------------------ what layers and the cache call

    def allocate(self, layer: TreeKVLayer, batch: int, heads: int, device: torch.device) -> None:
        rows = batch // layer.heads_as_rows
        if self._ledger is not None and (self._ledger.device, self._ledger.heads) != (device, heads):
            rest = self.layers[layer.group_index :]
            del self.layers[layer.group_index :]
            self._rows = layer.group_offset
            self._ledger.select(torch.arange(self._rows * rows))
            LayerGroup(self.config, rest).allocate(layer, batch, heads, device)
        elif self._ledger is None:
            numbers = [each.number for each in self.layers for _ in range(rows * each.heads_as_rows)]
            parts = [each.head_numbers for each in self.layers if each.head_numbers is not None]
            head = [number for part in parts for _ in range(rows) for number in part] or None
            self._ledger = Ledger(self.config, len(numbers), heads, device, numbers, layer.layers, head)

    def release(self) -> None:
        self._ledger, self._plan, self._plans, self._observed = None, None, [], []

    def select(self, index: Tensor) -> None:
        """Keep, repeat or reorder batch rows."""
        if self._ledger is not None:
            batch = len(self._ledger.held) // self._rows
            parts = [layer.group_offset * batch + layer.rows_of(index) for layer in self.layers]
            self._ledger.select(torch.cat(parts))

    def copy_tensors(self) -> None:
        if self.ledger.order.is_inference():
            self.ledger.copy_tensors()

    def longest(self, layer: TreeKVLayer) -> int:
        return max(self.ledger.held[self.ledger_rows(layer)])

    def ledger_rows(self, layer: TreeKVLayer, rows: slice | None = None) -> slice:
        """Rows of a layer, by default all, as rows of the ledger."""
        first = layer.group_offset * (layer.batch // layer.heads_as_rows)
        return slice(first, first + layer.batch) if rows is None else slice(first + rows.start, first + rows.stop)

    def attend(self, layer: TreeKVLayer, call: AttentionCall) -> Tensor:
        ledger, rotary = self.ledger, layer.rotary
        if layer.first_with_rotary and rotary is not None:
            rotary.clear()
        batch, q = call.key.shape[0], call.key.shape[2]
        pads, scattered = split_padding(call.padding, batch, q)
        if q > 1 and layer.tokens_seen and not torch.compiler.is_compiling():
            if call.padding is not None:
                forget_padding(ledger, self.ledger_rows(layer), layer, call.padding[:, :-q])
            if layer.number == 0 or call.padding is not None:
                check_history(ledger, self.ledger_rows(layer), layer, call, q)
        if q == 1 and not any(pads):
            plan = self._plan_step(layer)
            if plan is not None:
                every = slice(0, batch)
                output, observed = self._attend_slots(layer, every, self._new_tokens(layer, call, every), plan, None)
                self.collect_token(layer, observed, call.query.shape[1] // ledger.heads)
                return checked(layer, output, 1)
        if not ledger.keeps_everything:
            layer.keep_slots()
        outputs = self._attend_by_rows(layer, call, pads, scattered)
        self._compact(layer)
        return checked(layer, outputs, q)

    def plan_token(self, layer: TreeKVLayer) -> TokenPlan | None:
        """See `treekv.cache.layer.LayerOwner`."""
        if self._last_queries or layer.followed:
            return None
        if layer.first_with_rotary and layer.rotary is not None:
            layer.rotary.clear()
        plan = self._plan_step(layer)
        if plan is None:
            return None
        seen = self.ledger.seen[self.ledger_rows(layer)][0]  # the same in all its heads
        return TokenPlan(plan, seen, self._observation, self._table_size)

    def follow(self, layer: TreeKVLayer, call: AttentionCall) -> Tensor:
        """See `treekv.cache.layer.LayerOwner`. What is evicted is decided by the queries of the layer itself."""
        return repeat_call(layer, call, partial(self._new_tokens, layer))

    # ------------------------------------------------------------------ one token of all layers

    def _plan_step(self, layer: TreeKVLayer) -> SlotPlan | None:
        """The slots of one new token in each row of a layer, if all layers can decode this token together."""
        ledger = self.ledger
        if ledger.keeps_everything:
            return None
        if layer.group_index == 0:
            self._plan, self._observed, every = None, [], slice(0, len(ledger.held))
            known = all(each.is_initialized for each in self.layers)  # and so on one device
            able = ledger.policy.takes_layers_together or not ledger.policy.depends_on_layer
            if known and able and ledger.can_step_together(every, 1):
                self._shrink()
                plan = self._plan_slots(every, 1, distance=any(each.rotary is not None for each in self.layers))
                self._plan = plan.with_mask(layer.keys.dtype) if self._observation is None else plan
                self._plans = self._plan.split([each.batch for each in self.layers])
        if self._plan is None:
            return None
        plan = self._plans[layer.group_index]
        # Heads that share differ in length: none is padded to the longest.
        return plan.within(max(ledger.held[self.ledger_rows(layer)]) + 1) if self.config.share_heads else plan

    def collect_token(self, layer: TreeKVLayer, observed: Tensor | None, queries: int) -> None:
        """Keep what a layer's queries saw, summed over the `queries` of a KV head, until the last layer has attended;
        then the ledger makes its step."""
        assert self._plan is not None  # made in the first layer
        if observed is not None:
            self._observed.append(observed)
        if layer.group_index == len(self.layers) - 1:
            seen = torch.cat(self._observed) / queries if self._observed else None
            contents = self._contents([(each, slice(0, each.batch)) for each in self.layers])
            self.ledger.step(slice(0, len(self.ledger.held)), self._plan, seen, contents=contents)
            self._shrink()
            self._plan, self._plans, self._observed = None, [], []

    def _shrink(self) -> None:
        """Free the slots that blocks needed and single tokens do not."""
        ledger = self.ledger
        capacity = [most for most in ledger.capacity[:] if most is not None]
        if not capacity or ledger.slots <= max(*capacity, *ledger.held[:]) + 1:
            return
        ledger.commit()
        for layer in self.layers:
            self._compact(layer)
        ledger.trim(max(layer.slots for layer in self.layers))

    # ------------------------------------------------------------------ one layer, in groups of rows

    def _attend_by_rows(
        self, layer: TreeKVLayer, call: AttentionCall, pads: list[int], scattered: dict[int, Tensor]
    ) -> Tensor:
        """Rows in the same state together, others one by one, each without its padding."""
        batch, q = call.key.shape[0], call.key.shape[2]
        together = not scattered and pads.count(pads[0]) == batch
        if self.config.share_heads and not self.ledger.seen[self.ledger_rows(layer)][0]:
            together = False  # rows share a prompt each for itself
        if together and self.ledger.can_step_together(self.ledger_rows(layer), q - pads[0], block=q > 1):
            groups = [slice(0, batch)]
        else:
            groups = [slice(row, row + 1) for row in range(batch)]
        if len(groups) == 1 and not pads[0]:
            return self._attend_rows(layer, groups[0], self._new_tokens(layer, call, groups[0]), None, block=q > 1)
        output = call.query.new_zeros((*call.query.shape[:3], call.value.shape[3]))
        for rows in groups:
            pad = pads[rows.start]
            if pad == q:
                continue
            real = scattered.get(rows.start, slice(pad, None))
            new = self._new_tokens(layer, call, rows, real)
            output[rows, :, real] = self._attend_rows(layer, rows, new, real, block=q > 1)
        return output

    def _attend_rows(
        self, layer: TreeKVLayer, rows: slice, new: NewTokens, real: slice | Tensor | None, *, block: bool
    ) -> Tensor:
        """Rows in the same state, of whose columns `real` are the new tokens (None: all).

        `block`: the call has several columns, so these tokens belong to a text that is read in blocks, even where
        padding leaves a row only one of them."""
        ledger, own, q = self.ledger, self.ledger_rows(layer, rows), new.key.shape[2]
        if ledger.keeps_everything:
            held = ledger.held[own]
            attend = partial(attend_all, rows=rows, held=held, reserved=padded_capacity(max(held) + q, None))
            output = attend(layer, new=new)
            layer.record(Step(rows, real, 0, q, lambda twin, new: attend(twin, new=new)))
            ledger.count(own, q)
            return output
        if ledger.seen[own][0] == 0 and self.config.prefill != "stream":
            layer.record(Step(rows, real, 0, q, lambda _, new: attend_prompt(new)))
            return self._attend_prompt(layer, rows, new)
        if not block:
            return self._attend_block(layer, rows, new, real)
        outputs, first, size = [], 0, self.config.block_size
        ledger.roll_back(own)
        while first < q:
            opened = ledger.open_tokens(own)
            last = min(first + size - opened, q)
            unfinished = opened + last - first < size
            if unfinished:  # the slots of what it evicts must remain, so none can be freed afterwards
                self._compact(layer)
            part = new.part(first, last)
            output = self._attend_block(layer, rows, part, real, first=first, opened=opened, unfinished=unfinished)
            outputs.append(output)
            first = last
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)

    def _attend_block(
        self,
        layer: TreeKVLayer,
        rows: slice,
        new: NewTokens,
        real: slice | Tensor | None,
        *,
        first: int = 0,
        opened: int = 0,
        unfinished: bool = False,
    ) -> Tensor:
        """Attend to the cache and causally to q new tokens, the `first` of the call and later ones, then evict down to
        the capacity; `opened` tokens of their block came in earlier calls."""
        ledger, own, q = self.ledger, self.ledger_rows(layer, rows), new.key.shape[2]
        plan = self._plan_slots(own, q, distance=q > 1 or layer.rotary is not None, opened=opened)
        output, observed = self._attend_slots(layer, rows, new, plan, real, first)
        if observed is not None:
            observed = observed / (new.query.shape[1] // ledger.heads)
        ledger.step(own, plan, observed, contents=self._contents([(layer, rows)]), unfinished=unfinished)
        return output

    def _attend_prompt(self, layer: TreeKVLayer, rows: slice, new: NewTokens) -> Tensor:
        """Attend to a whole prompt, then keep a part of it; where heads share that, in `share_prompts`."""
        ledger, own, length = self.ledger, self.ledger_rows(layer, rows), new.key.shape[2]
        output = attend_prompt(new)
        scored = score_prompt(layer, ledger, rows, new, own, self._weighting)
        if self.config.share_heads and ledger.reduces_prompt(length):
            layer.waiting.append(scored)
        else:
            keep(layer, ledger, own, scored, ledger.choose_prompt(scored.prompt), self._last_queries)
        return output

    def share_prompts(self, parts: list[TreeKVLayer]) -> None:
        """See `treekv.cache.layer.LayerOwner`."""
        for heads in zip(*(part.waiting for part in parts), strict=True):
            selections = choose_shared(self.ledger, [scored.prompt for scored in heads])
            for part, scored, selection in zip(parts, heads, selections, strict=True):
                own = self.ledger_rows(part, scored.rows)
                keep(part, self.ledger, own, scored, selection, self._last_queries)
        for part in parts:
            part.waiting.clear()

    # ------------------------------------------------------------------ details

    def _attend_slots(
        self,
        layer: TreeKVLayer,
        rows: slice,
        new: NewTokens,
        plan: SlotPlan,
        real: slice | Tensor | None,
        first: int = 0,
    ) -> tuple[Tensor, Tensor | None]:
        if self._last_queries:
            remember_queries(layer, rows, new, self._last_queries)
        table = self._table_size
        if layer.followed:
            last = first + new.query.shape[2]
            layer.record(Step(rows, real, first, last, partial(attend_block_again, rows, plan.kept(), table)))
        return attend_block(layer, rows, new, plan, self._observation, table)

    def _contents(self, parts: list[tuple[TreeKVLayer, slice]]) -> StoredContents | None:
        """What the ledger's policy may read of rows of some layers."""
        return StoredContents(parts, str(self.config.positions)) if self.ledger.policy.reads_contents else None

    def _plan_slots(self, rows: slice, q: int, *, distance: bool, opened: int = 0) -> SlotPlan:
        """The ledger's plan, with the distances at which tokens are seen; the block starts `opened` tokens earlier."""
        ledger = self.ledger
        plan = ledger.plan_slots(rows, q, distance=distance)
        if plan.distance is None or self.config.positions != "compressed":
            return plan
        # Counted from the block's first token, so that its tokens and queries have their true distances.
        start = ledger.seen.as_operand(rows, ledger.device) - opened
        position = ledger.rows_view(ledger.position, rows).narrow(2, 0, plan.used)
        seen = seen_distance.compressed(start - position) + (opened + q - 1)
        return plan._replace(distance=torch.where(plan.distance < q, plan.distance, seen))

    @property
    def _table_size(self) -> int:
        """No distance of a plan reaches it."""
        slots = self.ledger.slots
        return slots + seen_distance.FARTHEST if self.config.positions == "compressed" else slots

    def _new_tokens(
        self, layer: TreeKVLayer, call: AttentionCall, rows: slice, real: slice | Tensor | None = None
    ) -> NewTokens:
        """The tokens in columns `real` of some rows, by default all columns of all rows."""
        position_ids, first = call.position_ids, 0
        query, key, value = call.query, call.key, call.value
        latents = call.latents
        if real is not None:
            query, key, value = query[rows, :, real], key[rows, :, real], value[rows, :, real]
            latents = latents and (latents[0][rows, :, real], latents[1][rows, :, real])
        if isinstance(real, slice):
            first = real.start
        elif real is not None and position_ids is not None:
            position_ids = position_ids[rows if position_ids.shape[0] > 1 else slice(0, 1), real]
        seen = [] if position_ids is not None else self.ledger.seen[self.ledger_rows(layer, rows)]
        positions = TokenPositions(position_ids, rows, first, seen, call.key.device)
        return NewTokens(query, key, value, call.scoring.of_rows(rows), positions, latents)

    def _compact(self, layer: TreeKVLayer) -> None:
        """Free the slots that the last block needed beyond the capacity."""
        old = self.ledger.compact(self.ledger_rows(layer), layer.slots)
        if old is not None:
            layer.reorder_slots(old)
