"""The books of one layer: which token sits in which slot, in what order, with what scores.

The ledger knows nothing of keys and values, so the cache and a simulation from captured attention run the very
same code. Storage is by *slot*: an evicted token's slot is taken by a newcomer and nothing else moves. Order is
by *rank* (0 is the oldest): `order[rank]` is a slot. Scores follow the paper: a sum of observed weights and a
count of observations per token; a policy compares their quotient.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from treekv import policies
from treekv.config import TreeKVConfig
from treekv.policies.base import Evictions, Prompt, Selection
from treekv.policies.tree import without
from treekv.trace import LayerTrace

GROWTH = 64  # slots are added this many at a time until the capacity is reached


class Placement(NamedTuple):
    """Where newcomers go.

    Attributes:
        slots: LongTensor [rows, heads, q], distinct slots, one for each newcomer listed in `newcomers`.
        newcomers: LongTensor [rows, heads, q], which newcomer goes there.
        stays: bool [rows, heads, q], False where that newcomer was itself evicted and the slot keeps what it
            holds; None when all stay.
    """

    slots: Tensor
    newcomers: Tensor | None
    stays: Tensor | None


class Ledger:
    """Order and scores of `batch` rows and `heads` KV heads; every head of a row holds equally many tokens.

    Attributes:
        order: LongTensor [batch, heads, slots], the slot at each rank (valid below `held[row]`).
        position: LongTensor [batch, heads, slots], the true position of the token in each slot.
        sums, counts: float32 [batch, heads, slots].
        held, seen, cursor, capacity: per row, on the host: tokens held, real tokens seen, where the tree policy
            compares next, and how many may be held.
    """

    def __init__(
        self,
        config: TreeKVConfig,
        batch: int,
        heads: int,
        device: torch.device | str = "cpu",
        layer: int = 0,
        layers: int = 1,
    ) -> None:
        self.config = config
        self.layer, self.layers = layer, layers
        self.policy = policies.get(config.policy)
        self.heads = heads
        self.device = torch.device(device)
        self.order = torch.empty((batch, heads, 0), dtype=torch.long, device=self.device)
        self.position = self.order.clone()
        self.sums = torch.empty((batch, heads, 0), dtype=torch.float32, device=self.device)
        self.counts = self.sums.clone()
        self._counting = torch.arange(0, device=self.device)
        self.held = [0] * batch
        self.seen = [0] * batch
        self.cursor = [0] * batch
        self.capacity: list[int | None] = [config.cache_size if self.policy.evicts_decoding else None] * batch
        self.trace = LayerTrace(batch, heads, self.device) if config.trace else None

    @property
    def slots(self) -> int:
        return self.order.shape[2]

    def reserve(self, tokens: int, most: int | None) -> int:
        """Have at least `tokens` slots, at most `most`; returns how many there are now."""
        if tokens > self.slots:
            target = -(-tokens // GROWTH) * GROWTH
            if most is not None:
                target = max(min(target, most), tokens)
            pad = (0, target - self.slots)
            self.order, self.position, self.sums, self.counts = (
                torch.nn.functional.pad(t, pad) for t in (self.order, self.position, self.sums, self.counts)
            )
        return self.slots

    def in_step(self, q: int) -> bool:
        """Whether all rows can take q newcomers together.

        They can if they are in the same state, and also if they are all full and one token comes: then only the
        cursor and the true positions differ, which is what a left-padded batch settles into.
        """
        if not (_same(self.held) and _same(self.capacity)):
            return False
        if _same(self.cursor) and _same(self.seen):
            return True
        return q == 1 and self.held[0] == self.capacity[0] and self.config.recent_size > 0

    def copy_tensors(self) -> None:
        """Replace every tensor by a copy."""
        for name in ("order", "position", "sums", "counts", "_counting"):
            setattr(self, name, getattr(self, name).clone())
        if self.trace is not None:
            self.trace.copy_tensors()

    def has_room(self) -> bool:
        """Whether every row can take another token without an eviction; then slots lie in the order of ranks."""
        return all(most is None or held < most for held, most in zip(self.held, self.capacity, strict=True))

    def part(self, tensor: Tensor, rows: slice, held: int | None = None) -> Tensor:
        """A view of some rows and of the first `held` slots; the tensor itself if that is all of it."""
        if len(self.held[rows]) < len(self.held):
            tensor = tensor[rows]
        return tensor if held is None or held == self.slots else tensor[:, :, :held]

    def ranks(self, rows: slice) -> Tensor:
        """LongTensor [rows, heads, held]: the rank of each slot in use."""
        order = self.part(self.order, rows, self.held[rows][0])
        return torch.empty_like(order).scatter_(2, order, self._count(order.shape[2]).expand_as(order))

    def positions(self, rows: slice) -> Tensor:
        """LongTensor [rows, heads, held]: true positions, ascending."""
        order = self.part(self.order, rows, self.held[rows][0])
        return self.part(self.position, rows).gather(2, order)

    def _count(self, n: int) -> Tensor:
        """LongTensor 0 ... n-1."""
        if self._counting.shape[0] < n:
            self._counting = torch.arange(-(-n // GROWTH) * GROWTH, device=self.device)
        return self._counting[:n]

    # ------------------------------------------------------------------ a prompt

    def choose_prompt(self, length: int, sums: Tensor | None, counts: Tensor | None) -> Selection | None:
        """Which tokens of a prompt stay; None if all do. `sums` [rows, heads, length], `counts` [1, 1, length]."""
        kept_whole = not self.policy.evicts_prompt or self.config.prefill == "none"
        if kept_whole or length <= self.config.cache_size:
            return None
        prompt = Prompt(length, sums, counts, self.heads, self.layer, self.layers, self.device)
        return self.policy.select_prompt(self.config, prompt)

    def admit_prompt(
        self,
        rows: slice,
        length: int,
        selection: Selection | None,
        sums: Tensor | None,
        counts: Tensor | None,
    ) -> Tensor:
        """Fill empty rows with (the selected part of) a prompt; returns the kept positions [rows, heads, k]."""
        batch = len(self.held[rows])
        shape = (batch, self.heads, -1)
        if selection is None:
            kept = torch.arange(length, device=self.device).expand(shape)
        else:
            kept = selection.kept.expand(shape)
        held = kept.shape[2]
        self.order[rows, :, :held] = torch.arange(held, device=self.device)
        self.position[rows, :, :held] = kept
        if sums is not None and counts is not None:
            self.sums[rows, :, :held] = sums.expand(batch, self.heads, -1).gather(2, kept)
            self.counts[rows, :, :held] = counts.expand(batch, self.heads, -1).gather(2, kept)
        for row in range(len(self.held))[rows]:
            self.held[row], self.seen[row] = held, length
            if self.config.prefill == "none" and self.capacity[row] is not None:
                self.capacity[row] = max(self.config.cache_size, length)
        if self.trace is not None:
            self.trace.extend(rows, [length] * batch)
            if selection is not None:
                self.trace.record_prompt(rows, kept, selection.survivors, length)
        return kept

    # ------------------------------------------------------------------ a step

    def step(self, rows: slice, q: int, observed: Tensor | None) -> Placement:
        """Add q newcomers, note what their queries saw, evict down to the capacity.

        Args:
            rows: one row, or all if they are `in_step`.
            q: number of newcomers, the same for each row.
            observed: float32 [rows, heads, held + q], attention weights summed over the q queries (of the last
                one, for a policy that does not accumulate), by slot, the newcomers last; None if the policy does
                not look at attention.
        """
        held, capacity = self.held[rows][0], self.capacity[rows][0]
        excess = 0 if capacity is None else max(held + q - capacity, 0)
        if self.trace is not None:
            self.trace.extend(rows, [seen + q for seen in self.seen[rows]])
        if observed is not None:
            sums = self.part(self.sums, rows, held)
            if self.policy.accumulates:
                sums.add_(observed[..., :held])
                self.part(self.counts, rows, held).add_(q)
            else:
                sums.copy_(observed[..., :held])
        if not excess:
            placement = self._append(rows, held, q, observed)
        elif q == 1 == excess and self.config.recent_size:
            placement = self._replace_one(rows, held, observed)
        else:
            placement = self._replace_many(rows, held, q, excess, observed)
        for row in range(len(self.held))[rows]:
            self.held[row] = held + q - excess
            self.seen[row] += q
        return placement

    def append_one(self, observed: Tensor | None) -> Tensor:
        """Add one newcomer to every row, however many each holds, if there `has_room`.

        `observed` float32 [batch, heads, n + 1] is what the newcomers' queries saw by slot, n the most that a row
        holds, themselves last. Returns the slots that they take, LongTensor [batch, heads, 1].
        """
        shape = (len(self.held), self.heads, 1)
        slots = torch.tensor(self.held, device=self.device)[:, None, None].expand(shape)
        seen = torch.tensor(self.seen, device=self.device)[:, None, None].expand(shape)
        self.order.scatter_(2, slots, slots)
        self.position.scatter_(2, slots, seen)
        if observed is not None:
            longest = observed.shape[2] - 1
            if self.policy.accumulates:
                self.sums[:, :, :longest] += observed[..., :longest]
                self.counts[:, :, :longest] += 1
            self.sums.scatter_(2, slots, observed[..., longest:])
            self.counts.scatter_(2, slots, 1.0)
        self.held = [held + 1 for held in self.held]
        self.seen = [seen + 1 for seen in self.seen]
        if self.trace is not None:
            self.trace.extend(slice(0, len(self.seen)), self.seen)
        return slots

    def _append(self, rows: slice, held: int, q: int, observed: Tensor | None) -> Placement:
        new = slice(held, held + q)
        slots = torch.arange(held, held + q, device=self.device)
        self.order[rows, :, new] = slots
        start = self.seen[rows][0]
        self.position[rows, :, new] = torch.arange(start, start + q, device=self.device)
        if observed is not None:
            self.sums[rows, :, new] = observed[..., held:]
            self.counts[rows, :, new] = torch.arange(q, 0, -1, device=self.device).float()
        return Placement(slots.expand(len(self.held[rows]), self.heads, q), None, None)

    def _replace_one(self, rows: slice, held: int, observed: Tensor | None) -> Placement:
        """One in, one out, the newcomer protected: what happens at every step once the cache is full."""
        now = self._shared(self.seen[rows])
        order = self.part(self.order, rows, held)
        sums, counts, position = (self.part(t, rows) for t in (self.sums, self.counts, self.position))
        view = _View(self, rows, order, sums, counts, held + 1, now)
        evictions = self.policy.evict(self.config, view, 1)
        slot = order.gather(2, evictions.losers)
        if self.trace is not None:
            self._record(rows, evictions, order, position, now)
        self._set_cursor(rows, evictions.cursor)
        # Whoever stands right of the loser moves one rank down, and the newcomer comes last, in the loser's slot.
        index = self._count(held)
        moved = torch.cat([order, slot], dim=2).gather(2, index + (index >= evictions.losers))
        if moved.shape == self.order.shape:
            self.order = moved
        else:
            self.order[rows, :, :held] = moved
        position.scatter_(2, slot, now.expand_as(slot) if isinstance(now, Tensor) else now)
        if observed is not None:
            sums.scatter_(2, slot, observed[..., held:])
            counts.scatter_(2, slot, 1.0)
        return Placement(slot, None, None)

    def _replace_many(self, rows: slice, held: int, q: int, excess: int, observed: Tensor | None) -> Placement:
        """q in, `excess` out; a newcomer may itself be evicted. Newcomers are given slots from `held` on for the
        time being; those that stay then move into the slots that became free."""
        batch, device = len(self.held[rows]), self.device
        start = self.seen[rows][0]
        shape = (batch, self.heads, q)
        newcomers = torch.arange(q, device=device).expand(shape)
        order = torch.cat([self.order[rows, :, :held], newcomers + held], dim=2)
        position = torch.cat([self.position[rows, :, :held], newcomers + start], dim=2)
        sums, counts = self.sums[rows, :, :held], self.counts[rows, :, :held]
        if observed is not None:
            sums = torch.cat([sums, observed[..., held:]], dim=2)
            counts = torch.cat([counts, (q - newcomers).float()], dim=2)
        remaining = excess
        while remaining:
            view = _View(self, rows, order, sums, counts, held + q - (excess - remaining), start + q - 1)
            evictions = self.policy.evict(self.config, view, remaining)
            if self.trace is not None:
                self._record(rows, evictions, order, position, start + q - 1)
            self._set_cursor(rows, evictions.cursor)
            order = without(order, evictions.losers)
            remaining -= evictions.losers.shape[2]

        final = order.shape[2]
        kept = torch.zeros((batch, self.heads, held + q), dtype=torch.bool, device=device)
        kept.scatter_(2, order, True)
        # Free slots first, oldest newcomers that stay first: the i-th of these goes to the i-th of those. Where
        # there are more newcomers than free slots the rest are paired with slots that keep what they hold.
        occupied = kept[..., :final].clone()
        occupied[..., held:] = False  # slots that are added only now
        slots = occupied.to(torch.uint8).argsort(dim=2, stable=True)[..., :q]
        arrivals = (~kept[..., held:]).to(torch.uint8).argsort(dim=2, stable=True)[..., : slots.shape[2]]
        stays = kept[..., held:].gather(2, arrivals)
        home = torch.arange(held + q, device=device).expand(batch, self.heads, -1).clone()
        home.scatter_(2, arrivals + held, torch.where(stays, slots, 0))
        self.order[rows, :, :final] = home.gather(2, order)
        self._write(self.position, rows, slots, position, arrivals + held, stays)
        if observed is not None:
            self._write(self.sums, rows, slots, sums, arrivals + held, stays)
            self._write(self.counts, rows, slots, counts, arrivals + held, stays)
        return Placement(slots, arrivals, stays)

    def _write(self, target: Tensor, rows: slice, slots: Tensor, source: Tensor, index: Tensor, stays: Tensor) -> None:
        old = target[rows].gather(2, slots)
        target[rows].scatter_(2, slots, torch.where(stays, source.gather(2, index), old))

    def _shared(self, per_row: list[int]) -> int | Tensor:
        """The number that all rows have, or LongTensor [rows, 1, 1] if they differ."""
        if _same(per_row):
            return per_row[0]
        return torch.tensor(per_row, device=self.device)[:, None, None]

    def _record(self, rows: slice, evictions: Evictions, order: Tensor, position: Tensor, step: int | Tensor) -> None:
        assert self.trace is not None
        losers = position.gather(2, order.gather(2, evictions.losers))
        winners = evictions.winners
        if winners is not None:
            winners = position.gather(2, order.gather(2, winners))
        self.trace.record(rows, losers, winners, step)

    def _set_cursor(self, rows: slice, cursor: int | Tensor) -> None:
        count = len(self.cursor[rows])
        self.cursor[rows] = cursor.flatten().tolist() if isinstance(cursor, Tensor) else [cursor] * count

    # ------------------------------------------------------------------ batch rows

    def select(self, index: Tensor) -> None:
        """Keep, repeat or reorder rows: `index` LongTensor, for each new row the old one."""
        index = index.to(self.device)
        self.order, self.position, self.sums, self.counts = (
            t.index_select(0, index) for t in (self.order, self.position, self.sums, self.counts)
        )
        chosen = index.tolist()
        for name in ("held", "seen", "cursor", "capacity"):
            per_row = getattr(self, name)
            setattr(self, name, [per_row[row] for row in chosen])
        if self.trace is not None:
            self.trace.select(index)


def _same(per_row: list) -> bool:
    """Whether all rows have the same number; written so that torch.compile need not know which."""
    return all(value == per_row[0] for value in per_row[1:])


class _View:
    """The scores of some rows, by rank, as a policy sees them."""

    def __init__(
        self,
        ledger: Ledger,
        rows: slice,
        order: Tensor,
        sums: Tensor,
        counts: Tensor,
        held: int,
        step: int | Tensor,
    ) -> None:
        self.held, self.step, self.layer = held, step, ledger.layer
        self.traced = ledger.trace is not None
        self.capacity: int = ledger.capacity[rows][0]  # type: ignore[assignment]  # a number, or nobody asks
        self.cursor = ledger._shared(ledger.cursor[rows])
        self.shape = (order.shape[0], order.shape[1])
        self.device = ledger.device
        self._order, self._sums, self._counts = order, sums, counts

    def average(self, ranks: slice | Tensor) -> Tensor:
        slots = self._slots(ranks)
        return self._sums.gather(2, slots) / self._counts.gather(2, slots)

    def total(self, ranks: slice | Tensor) -> Tensor:
        return self._sums.gather(2, self._slots(ranks))

    def _slots(self, ranks: slice | Tensor) -> Tensor:
        if isinstance(ranks, slice):
            return self._order[..., ranks]
        return self._order.gather(2, ranks.expand(self.shape[0], self.shape[1], -1))
