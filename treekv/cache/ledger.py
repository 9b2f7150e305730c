"""The state of some layers: which token is in which slot, in what order, with what scores.

The ledger knows nothing of keys and values, so the cache and a simulation from captured attention can run the very
same code. Storage is by *slot*: a new token takes a free slot, an evicted token's slot becomes free, and nothing else
moves. Order is by *rank* (0 is the oldest): `order[rank]` is a slot, and the free slots follow after the last rank.
Scores follow the paper: a sum of observed weights and a count of observations per token, whose quotient is compared. A
token is observed by every query since it was cached, or since the first that scored its prompt: counts are not stored.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from treekv import policies
from treekv.cache.block_snapshot import BlockSnapshot
from treekv.cache.ranked_scores import RankedScores, by_rank, late_sum, observations
from treekv.cache.row_values import RowValues, same
from treekv.cache.slot_contents import SlotContents
from treekv.cache.slot_plan import GROWTH, SlotPlan, padded_capacity
from treekv.cache.trace import LayerTrace
from treekv.config import TreeKVConfig
from treekv.policies.base import Prompt, Selection
from treekv.policies.scores import Contents


class Ledger:
    """Order and scores of rows of `heads` KV heads; every head of a row holds equally many tokens.

    A row is a row of a batch in one layer, or one head of it (then `heads` is 1). All rows have the same settings.

    Args:
        config: the settings.
        rows: how many.
        heads: KV heads.
        device: of the tensors.
        layer: the number of the rows' layer, or one number for each row.
        layers: how many layers the model has.
        head: the number of each row's head, where a row is one head.

    Attributes:
        order: LongTensor [rows, heads, slots], a permutation: the slot at each rank, then the free ones.
        position: LongTensor [rows, heads, slots], the true position of the token in each slot.
        sums: float32 [rows, heads, slots].
        held, seen, cursor, capacity: per row, on the host: tokens held, real tokens seen, where the tree policy
            compares next, and how many may be held.
        first_query: per row, the position of the first query whose weights count.
    """

    def __init__(
        self,
        config: TreeKVConfig,
        rows: int,
        heads: int,
        device: torch.device | str = "cpu",
        layer: int | Sequence[int] = 0,
        layers: int = 1,
        head: Sequence[int] | None = None,
    ) -> None:
        self.config = config
        self.policy = policies.of(config)
        self.delay, self._decay = config.delay, self.policy.decay(config)
        self.layers = layers
        self.heads = heads
        self.device = torch.device(device)
        self.order = torch.empty((rows, heads, 0), dtype=torch.long, device=self.device)
        self.position = self.order.clone()
        self.sums = torch.empty((rows, heads, 0), dtype=torch.float32, device=self.device)
        self._counting = torch.arange(0, device=self.device)
        self._layer = RowValues(0, rows)
        self._layer[:] = [layer] * rows if isinstance(layer, int) else list(layer)
        self._head = None if head is None else torch.tensor(head, device=self.device)[:, None]
        self.held, self.seen, self.first_query, self.cursor = (RowValues(0, rows) for _ in range(4))
        most = self.policy.capacity(config) if self.policy.evicts_after(config) else None
        self.capacity: RowValues[int | None] = RowValues(most, rows)
        self.used_slots = RowValues(0, rows)  # slots from here on have not been used yet and stand in their own order
        self.open_blocks: list[BlockSnapshot | None] = [None] * rows
        self.trace = LayerTrace(rows, heads, self.device) if config.trace else None

    @property
    def slots(self) -> int:
        return self.order.shape[2]

    @property
    def keeps_everything(self) -> bool:
        """Whether nothing is ever evicted; then only the number of tokens is recorded."""
        return not (self.policy.evicts_prompt or self.policy.evicts_decoding)

    def reserve(self, tokens: int, most: int | None = None) -> None:
        """Have at least `tokens` slots, padded as `padded_capacity` says."""
        more = padded_capacity(tokens, most) - self.slots
        if tokens > self.slots and more:
            self.order, self.position, self.sums = (
                torch.nn.functional.pad(tensor, (0, more)) for tensor in (self.order, self.position, self.sums)
            )
            self.order[..., -more:] = self._count(self.slots)[-more:]

    def can_step_together(self, rows: slice, q: int, *, block: bool = False) -> bool:
        """Whether rows can take q new tokens together.

        They can if they are in the same state. One token each, unless it is part of a `block`, can also be taken by
        rows that are all full (then only cursors and true positions differ, which is the steady state of a left-padded
        batch), and by rows that all have free capacity.
        """
        held, capacity = self.held[rows], self.capacity[rows]
        if q == 1 and not block:
            full = [most is not None and tokens >= most for tokens, most in zip(held, capacity, strict=True)]
            if not any(full):
                return True
            return all(full) and same(held) and same(capacity)
        alike = (held, capacity, self.cursor[rows], self.seen[rows])
        opened = [block.tokens if block else 0 for block in self.open_blocks[rows]]
        return all(same(numbers) for numbers in (*alike, opened))

    def copy_tensors(self) -> None:
        """Replace every tensor by a copy."""
        for name in ("order", "position", "sums", "_counting"):
            setattr(self, name, getattr(self, name).clone())
        if self.trace is not None:
            self.trace.copy_tensors()

    def rows_view(self, tensor: Tensor, rows: slice) -> Tensor:
        """A view of some rows; the tensor itself if that is all of them."""
        return tensor if self.held.covers(rows) else tensor[rows]

    def positions(self, rows: slice) -> Tensor:
        """LongTensor [rows, heads, held]: true positions, ascending, of rows that hold equally many."""
        held = self.held[rows][0]
        if self.keeps_everything:
            return self._count(held).expand(len(self.held[rows]), self.heads, held)
        return self.rows_view(self.position, rows).gather(2, self.rows_view(self.order, rows)[..., :held])

    def counts(self, rows: slice) -> Tensor:
        """LongTensor [rows, heads, slots]: how many queries have observed the token in each slot."""
        since, seen = self.first_query.as_operand(rows, self.device), self.seen.as_operand(rows, self.device)
        return observations(self.rows_view(self.position, rows), since, seen, self.delay)

    def _count(self, n: int) -> Tensor:
        """LongTensor 0 ... n-1."""
        if self._counting.shape[0] < n:
            self._counting = torch.arange(-(-n // GROWTH) * GROWTH, device=self.device)
        return self._counting[:n]

    # ------------------------------------------------------------------ a prompt

    def reduces_prompt(self, length: int) -> bool:
        """Whether a prompt of so many tokens is not kept whole."""
        most = self.policy.capacity(self.config)
        return self.policy.evicts_prompt and self.config.prefill != "none" and length > most

    def prompt(
        self,
        rows: slice,
        length: int,
        sums: Tensor | None = None,
        counts: Tensor | None = None,
        future: Tensor | None = None,
        contents: Contents | None = None,
    ) -> Prompt:
        """A prompt as the policy sees it; `sums` and `future` [rows, heads, length], `counts` [1, 1, length]."""
        heads, layer, traced = self.head_numbers(rows), self.layer_numbers(rows), self.trace is not None
        sums = None if sums is None else self.policy.observe(sums)
        return Prompt(length, sums, counts, heads, layer, self.layers, self.device, future, traced, contents)

    def choose_prompt(self, prompt: Prompt) -> Selection | None:
        """Which tokens of a prompt are kept; None for all."""
        return self.policy.select_prompt(self.config, prompt) if self.reduces_prompt(prompt.length) else None

    def admit_prompt(
        self, rows: slice, length: int, selection: Selection | None, sums: Tensor | None = None, observers: int = 0
    ) -> Tensor:
        """Fill empty rows with (the selected part of) a prompt; returns the kept positions [rows, heads, k].

        `sums` [rows, heads, length] are the weights that the last `observers` tokens gave to each, late enough.
        """
        batch = len(self.held[rows])
        shape = (batch, self.heads, -1)
        kept = self._count(length)[None, None] if selection is None else selection.kept
        kept = kept.expand(shape)
        held = kept.shape[2]
        if self.config.prefill == "none":
            self.capacity[rows] = [None if most is None else max(most, length) for most in self.capacity[rows]]
        most = self.capacity.first(rows)
        self.reserve(held if most is None else held + 1, None if most is None else most + 1)
        self.position[rows, :, :held] = kept
        if sums is not None:
            self.sums[rows, :, :held] = self.policy.observe(sums).expand(batch, self.heads, -1).gather(2, kept)
        self.held[rows], self.seen[rows] = [held] * batch, [length] * batch
        self.first_query[rows] = [length - observers if sums is not None else 0] * batch
        if self.trace is not None:
            self.trace.extend(rows, length)
            if selection is not None:
                self.trace.record_prompt(rows, kept, selection.survivors, length)
        return kept

    # ------------------------------------------------------------------ a step

    def count(self, rows: slice, q: int) -> None:
        """q new tokens of rows that keep everything."""
        self.held.add(rows, q)
        self.seen.add(rows, q)
        if self.trace is not None:
            self.trace.extend(rows, q)

    def plan_slots(self, rows: slice, q: int, *, distance: bool = True) -> SlotPlan:
        """The slots of q new tokens of each of `rows`, which `can_step_together`; see `step`.

        Without `distance` the plan has none where no slot is free: then a new token sees all but the later ones.
        """
        held, alike = self.held.first(rows), self.held.uniform(rows)
        capacity = self.capacity.first(rows)
        longest = held if alike else max(self.held[rows])
        most = None if capacity is None else max(capacity, longest) + q
        self.reserve(longest + q, most)
        used = self.used_slots
        n = max(longest + q, used.first(rows) if used.uniform(rows) else max(used[rows]))
        order = self.rows_view(self.order, rows)
        if n < self.slots:
            order = order.narrow(2, 0, n)
        if alike:
            slots = order.narrow(2, held, q)
            last: int | Tensor = held + q - 1
        else:  # one new token each
            last = torch.tensor(self.held[rows], device=self.device)[:, None, None]
            slots = order.gather(2, last.expand(-1, self.heads, 1))
        all_used = alike and n == held + q
        ranks_before = None
        if distance or not all_used:
            ranks_before = last - torch.empty_like(order).scatter_(2, order, self._count(n).expand_as(order))
        return SlotPlan(slots, n, ranks_before, all_used, max(padded_capacity(longest + q, most), n))

    def step(
        self,
        rows: slice,
        plan: SlotPlan,
        observed: Tensor | None,
        *,
        contents: SlotContents | None = None,
        unfinished: bool = False,
    ) -> None:
        """Add the new tokens of a plan, record what their queries saw; evict if more than the capacity is held.

        Args:
            rows: they `can_step_together`.
            plan: from `plan_slots`.
            observed: float32 [rows, heads, plan.used], attention weights by slot, summed over the queries of the q new
                tokens (of the last one, for a policy that does not accumulate), or [rows, heads, q, plan.used] of each
                of them if q > 1 and the policy `counts_by_query`; None for a policy without attention.
            contents: of these rows, for a policy that reads them.
            unfinished: the new tokens are part of a block that may continue; then `roll_back` can undo the evictions.
        """
        q = plan.slots.shape[2]
        self.used_slots.set(rows, plan.used)
        start, position = self.seen.as_operand(rows, self.device), self.rows_view(self.position, rows)
        if q == 1 and isinstance(start, int):
            position.scatter_(2, plan.slots, start)
        else:
            position.scatter_(2, plan.slots, (self._count(q) + start).expand(plan.slots.shape))
        if observed is not None:
            sums = self.rows_view(self.sums, rows).narrow(2, 0, plan.used)
            if self.policy.changes_weights:
                observed = by_rank(self.policy.observe, observed, self.rows_view(self.order, rows))
            if self.policy.counts_by_query(self.config):
                observed = late_sum(observed, position.narrow(2, 0, plan.used), start, self.delay, self._decay)
            if self.policy.accumulates:
                if self._decay < 1:
                    sums.mul_(self._decay**q)
                sums.scatter_(2, plan.slots, 0.0)
                sums.add_(observed)
            else:
                sums.copy_(observed)
        self.count(rows, q)
        held, capacity = self.held.first(rows), self.capacity.first(rows)
        excess = 0 if capacity is None else max(held - capacity, 0)
        if unfinished:
            self._remember(rows, self.open_tokens(rows) + q, bool(excess))
        else:
            self.open_blocks[rows] = [None] * len(self.open_blocks[rows])
        if capacity is not None and excess:
            self._evict(rows, held, capacity, self.policy.eviction_count(self.config, excess), contents)

    def _evict(self, rows: slice, held: int, capacity: int, excess: int, contents: SlotContents | None) -> None:
        position, seen = self.rows_view(self.position, rows), self.seen.as_operand(rows, self.device)
        while excess:
            scores = RankedScores(
                order=self.rows_view(self.order, rows),
                position=position,
                sums=self.rows_view(self.sums, rows),
                held=held,
                capacity=capacity,
                cursor=self.cursor.as_operand(rows, self.device),
                first_query=self.first_query.as_operand(rows, self.device),
                seen=seen,
                layer=self.layer_numbers(rows),
                traced=self.trace is not None,
                heads=self.head_numbers(rows),
                delay=self.delay,
                contents=contents,
            )
            losers, survivors, cursor = self.policy.evict(self.config, scores, excess)
            if isinstance(cursor, Tensor):
                self.cursor[rows] = cursor.flatten().tolist()
            elif cursor is not None:
                self.cursor.set(rows, cursor)
            if isinstance(losers, int):  # then nothing is recorded
                scores.move_one_to_the_end(losers)
                excess, held = excess - 1, held - 1
                continue
            slots = scores.order.gather(2, losers)
            if self.trace is not None:
                pair = [slots] if survivors is None else [slots, scores.order.gather(2, survivors)]
                self.trace.record(rows, torch.stack([position.gather(2, each) for each in pair]), seen - 1)
            scores.move_to_the_end(losers, slots)
            excess -= losers.shape[2]
            held -= losers.shape[2]
        self.held.set(rows, held)

    def layer_numbers(self, rows: slice) -> int | tuple[int, ...]:
        return self._layer.first(rows) if self._layer.uniform(rows) else tuple(self._layer[rows])

    def head_numbers(self, rows: slice) -> int | Tensor:
        """How many heads a row has; LongTensor [rows, 1] where a row is one head."""
        return self.heads if self._head is None else self.rows_view(self._head, rows)

    # ------------------------------------------------------------------ a block in several pieces

    def open_tokens(self, rows: slice) -> int:
        """How many tokens the unfinished block of rows that are `can_step_together` has."""
        block = self.open_blocks[rows][0]
        return block.tokens if block else 0

    def _remember(self, rows: slice, tokens: int, evicts: bool) -> None:
        blocks: list[BlockSnapshot | None] = []
        for row in range(len(self.held))[rows]:
            order = self.order[row].clone() if evicts else None
            mark = self.trace.mark(row) if self.trace is not None else None
            blocks.append(BlockSnapshot(tokens, self.held[row], self.cursor[row], order, mark))
        self.open_blocks[rows] = blocks

    def roll_back(self, rows: slice) -> None:
        """Undo the evictions after an unfinished block: slots that became free still hold their tokens."""
        for row in range(len(self.held))[rows]:
            block = self.open_blocks[row]
            if block is None or block.order is None:
                continue
            self.order[row, :, : block.order.shape[1]] = block.order
            one = slice(row, row + 1)
            self.held[one], self.cursor[one] = [block.held], [block.cursor]
            if self.trace is not None and block.mark is not None:
                self.trace.take_back(row, block.mark)

    def commit(self) -> None:
        """Evictions after unfinished blocks are final."""
        self.open_blocks = [None] * len(self.held)

    def compact(self, rows: slice, slots: int) -> Tensor | None:
        """Free what blocks needed of `slots` slots, if single tokens need less.

        Returns LongTensor [rows, heads, fewer slots], the former number of each remaining slot; None if all remain,
        as they must while a block is unfinished, since `roll_back` needs them.
        """
        if any(most is None for most in self.capacity[rows]) or any(
            b and b.order is not None for b in self.open_blocks[rows]
        ):
            return None
        needed = max(max(most or 0, held) + 1 for most, held in zip(self.capacity[rows], self.held[rows], strict=True))
        if slots <= needed:
            return None
        order, position, sums = (self.rows_view(t, rows) for t in (self.order, self.position, self.sums))
        old = order[..., :needed].clone()
        for tensor in (position, sums):
            tensor[..., :needed] = tensor.gather(2, old)
        order.copy_(self._count(self.slots).expand_as(order))
        self.used_slots[rows] = self.held[rows]
        return old

    def trim(self, slots: int) -> None:
        """Keep the state of this many slots; the others are free."""
        self.order, self.position, self.sums = (
            tensor[..., :slots].contiguous() for tensor in (self.order, self.position, self.sums)
        )

    # ------------------------------------------------------------------ rows

    def select(self, index: Tensor) -> None:
        """Keep, repeat or reorder rows: `index` LongTensor, for each new row the old one."""
        index = index.to(self.device)
        chosen = index.tolist()
        for each in (self.held, self.seen, self.first_query, self.cursor, self.capacity, self.used_slots, self._layer):
            each.select(chosen)
        self.order, self.position, self.sums = (
            t.index_select(0, index) for t in (self.order, self.position, self.sums)
        )
        if self._head is not None:
            self._head = self._head.index_select(0, index)
        self.open_blocks = [self.open_blocks[row] for row in chosen]
        if self.trace is not None:
            self.trace.select(index)
