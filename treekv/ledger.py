"""The books of some layers: which token sits in which slot, in what order, with what scores.

The ledger knows nothing of keys and values, so the cache and a simulation from captured attention run the very
same code. Storage is by *slot*: a newcomer takes a free slot, an evicted token's slot becomes free, and nothing else
moves. Order is by *rank* (0 is the oldest): `order[rank]` is a slot, and the free slots follow after the last rank.
Scores follow the paper: a sum of observed weights and a count of observations per token; a policy compares their
quotient. A token has been observed by every query since it came, or since the first query that scored its prompt, so
counts need not be stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor

from treekv import policies
from treekv.config import TreeKVConfig
from treekv.part import Part, observations
from treekv.per_row import PerRow, same
from treekv.policies.base import Prompt, Selection
from treekv.trace import LayerTrace, Mark
from treekv.views import Views, by_rank, readers_of

GROWTH = 64  # slots are added this many at a time until there is room for the capacity and the newcomers


class Places(NamedTuple):
    """Where q newcomers go, and how far every slot is from them.

    Attributes:
        slots: LongTensor [rows, heads, q], one for each newcomer.
        n: how many slots have been used, these included.
        distance: LongTensor [rows, heads, n], of each of these slots, ranks before the last newcomer; negative
            where a slot is free. None if it is not wanted.
        all_used: whether none of the n slots is free.
        room: how many slots to have, n or more.
    """

    slots: Tensor
    n: int
    distance: Tensor | None
    all_used: bool
    room: int

    def of(self, rows: slice) -> Places:
        """The same for some of the rows."""
        return self._replace(slots=self.slots[rows], distance=None if self.distance is None else self.distance[rows])


class _Open(NamedTuple):
    """What a row was like before it evicted after a block that is not full yet."""

    tokens: int  # of the block
    held: int
    cursor: int
    order: Tensor | None  # LongTensor [heads, slots]; None if nothing was evicted
    mark: Mark | None


class Ledger:
    """Order and scores of rows of `heads` KV heads; every head of a row holds equally many tokens.

    A row is a row of a batch in one layer. Rows may have different settings if all their policies evict while decoding,
    or none, and likewise a prompt; rows whose policy looks at attention come first.

    Args:
        config: the settings, or those of each row; whether there is a trace says the first.
        rows: how many.
        heads: KV heads.
        device: where the books are kept.
        layer: the number of the rows' layer, or one number for each row.
        layers: how many layers the model has.

    Attributes:
        order: LongTensor [rows, heads, slots], a permutation: the slot at each rank, then the free ones.
        position: LongTensor [rows, heads, slots], the true position of the token in each slot.
        sums: float32 [rows, heads, slots].
        held, seen, cursor, capacity: per row, on the host: tokens held, real tokens seen, where the tree policy
            compares next, and how many may be held.
        since: per row, the position of the first query whose weights count.
    """

    def __init__(
        self,
        config: TreeKVConfig | Sequence[TreeKVConfig],
        rows: int,
        heads: int,
        device: torch.device | str = "cpu",
        layer: int | Sequence[int] = 0,
        layers: int = 1,
    ) -> None:
        each = [config] * rows if isinstance(config, TreeKVConfig) else list(config)
        assert len(each) == rows
        self._config = PerRow(each[0], rows)
        self._config[:] = each
        self.layers = layers
        self.heads = heads
        self.device = torch.device(device)
        self.order = torch.empty((rows, heads, 0), dtype=torch.long, device=self.device)
        self.position = self.order.clone()
        self.sums = torch.empty((rows, heads, 0), dtype=torch.float32, device=self.device)
        self._counting = torch.arange(0, device=self.device)
        self._layer = PerRow(0, rows)
        self._layer[:] = [layer] * rows if isinstance(layer, int) else list(layer)
        self.held, self.seen, self.since, self.cursor = (PerRow(0, rows) for _ in range(4))
        self.capacity: PerRow[int | None] = PerRow(None, rows)
        self.width = PerRow(0, rows)  # slots from here on have not been used yet and stand in their own order
        self._open: list[_Open | None] = [None] * rows
        self.trace = LayerTrace(rows, heads, self.device) if each[0].trace else None
        self._again: Views | None = None
        self._split()
        if self.policy.evicts_decoding:
            self.capacity[:] = [own.cache_size for own in each]

    def __getstate__(self) -> dict[str, Any]:
        """For copies, whose views would not be views of their own books."""
        return self.__dict__ | {"_again": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        for part in self._parts:
            part.bind(self)

    @property
    def policy(self) -> policies.Policy:
        """That of the first row."""
        return self._parts[0].policy

    @property
    def slots(self) -> int:
        return self.order.shape[2]

    @property
    def keeps_everything(self) -> bool:
        """Whether nothing is ever evicted; then there is nothing to write down but how many tokens there are."""
        return not (self.policy.evicts_prompt or self.policy.evicts_decoding)

    def reserve(self, tokens: int, most: int | None = None) -> None:
        """Have at least `tokens` slots; some more at once, but not beyond `most`, unless `tokens` is."""
        more = room(tokens, most) - self.slots
        if tokens > self.slots and more:
            self._replace(lambda tensor: torch.nn.functional.pad(tensor, (0, more)))
            self.order[..., -more:] = self._count(self.slots)[-more:]

    def in_step(self, rows: slice, q: int, *, block: bool = False) -> bool:
        """Whether rows can take q newcomers together.

        They can if they are in the same state. One newcomer each, unless it is part of a `block`, can also be taken by
        rows that are all full (then only cursors and true positions differ, which is what a left-padded batch settles
        into), and by rows that all have room.
        """
        held, capacity = self.held[rows], self.capacity[rows]
        if q == 1 and not block:
            full = [most is not None and tokens >= most for tokens, most in zip(held, capacity, strict=True)]
            if not any(full):
                return True
            return all(full) and same(held) and same(capacity)
        if len(self._parts_of(rows)) > 1:  # sweeps of different policies end after different counts
            return False
        alike = (held, capacity, self.cursor[rows], self.seen[rows])
        opened = [block.tokens if block else 0 for block in self._open[rows]]
        return all(same(numbers) for numbers in (*alike, opened))

    def copy_tensors(self) -> None:
        """Replace every tensor by a copy."""
        self._replace(Tensor.clone)
        self._counting = self._counting.clone()
        if self.trace is not None:
            self.trace.copy_tensors()

    def part(self, tensor: Tensor, rows: slice) -> Tensor:
        """A view of some rows; the tensor itself if that is all of them."""
        return tensor if self.held.covers(rows) else tensor[rows]

    def books(self, rows: slice) -> tuple[Tensor, Tensor, Tensor]:
        """`order`, `position` and `sums` of some rows."""
        return self.part(self.order, rows), self.part(self.position, rows), self.part(self.sums, rows)

    def _replace(self, changed: Callable[[Tensor], Tensor]) -> None:
        """Put other tensors in the place of all three."""
        self._again = None
        self.order, self.position, self.sums = map(changed, (self.order, self.position, self.sums))
        for part in self._parts:
            part.bind(self)

    def positions(self, rows: slice) -> Tensor:
        """LongTensor [rows, heads, held]: true positions, ascending, of rows that hold equally many."""
        held = self.held[rows][0]
        if self.keeps_everything:
            return self._count(held).expand(len(self.held[rows]), self.heads, held)
        return self.part(self.position, rows).gather(2, self.part(self.order, rows)[..., :held])

    def counts(self, rows: slice) -> Tensor:
        """LongTensor [rows, heads, slots]: how many queries have observed the token in each slot."""
        since, seen = self.since.shared(rows, self.device), self.seen.shared(rows, self.device)
        return observations(self.part(self.position, rows), since, seen)

    def _count(self, n: int) -> Tensor:
        """LongTensor 0 ... n-1."""
        if self._counting.shape[0] < n:
            self._counting = torch.arange(-(-n // GROWTH) * GROWTH, device=self.device)
        return self._counting[:n]

    # ------------------------------------------------------------------ a prompt

    def choose_prompt(self, rows: slice, length: int, sums: Tensor | None, counts: Tensor | None) -> Selection | None:
        """Which tokens of a prompt stay in rows with the same settings; None if all do.

        `sums` [rows, heads, length], `counts` [1, 1, length].
        """
        part = self._parts_of(rows)[0]
        config, policy = part.config, part.policy
        kept_whole = not policy.evicts_prompt or config.prefill == "none"
        if kept_whole or length <= config.cache_size:
            return None
        prompt = Prompt(length, sums, counts, self.heads, self.layer_of(rows), self.layers, self.device)
        return policy.select_prompt(config, prompt)

    def admit_prompt(
        self, rows: slice, length: int, selection: Selection | None, sums: Tensor | None = None, observers: int = 0
    ) -> Tensor:
        """Fill empty rows that have the same settings with (the selected part of) a prompt.

        Returns the kept positions [rows, heads, k].

        `sums` [rows, heads, length] are the weights that the last `observers` tokens gave to each.
        """
        batch = len(self.held[rows])
        shape = (batch, self.heads, -1)
        kept = self._count(length)[None, None] if selection is None else selection.kept
        kept = kept.expand(shape)
        held = kept.shape[2]
        if self._parts_of(rows)[0].config.prefill == "none":
            self.capacity[rows] = [None if most is None else max(most, length) for most in self.capacity[rows]]
        most = self.capacity.first(rows)
        self.reserve(held if most is None else held + 1, None if most is None else most + 1)
        self.position[rows, :, :held] = kept
        if sums is not None:
            self.sums[rows, :, :held] = sums.expand(batch, self.heads, -1).gather(2, kept)
        self.held[rows], self.seen[rows] = [held] * batch, [length] * batch
        self.since[rows] = [length - observers if sums is not None else 0] * batch
        if self.trace is not None:
            self.trace.extend(rows, length)
            if selection is not None:
                self.trace.record_prompt(rows, kept, selection.survivors, length)
        return kept

    # ------------------------------------------------------------------ a step

    def count(self, rows: slice, q: int) -> None:
        """q newcomers of rows that keep everything."""
        self.held.more(rows, q)
        self.seen.more(rows, q)
        if self.trace is not None:
            self.trace.extend(rows, q)

    def places(self, rows: slice, q: int, *, distance: bool = True) -> Places:
        """Where q newcomers of each of `rows`, which are `in_step`, will go; see `step`.

        Without `distance` there is none where no slot is free: then a newcomer sees all but the later ones.
        """
        again = self._kept()
        if again is not None and not distance and self.held.covers(rows) and again.state == self._state(q):
            return again.places
        held, alike = self.held.first(rows), self.held.alike(rows)
        capacity = self.capacity.first(rows)
        longest = held if alike else max(self.held[rows])
        most = None if capacity is None else max(capacity, longest) + q
        self.reserve(longest + q, most)
        n = max(longest + q, self.width.first(rows) if self.width.alike(rows) else max(self.width[rows]))
        order = self.part(self.order, rows)
        if n < self.slots:
            order = order.narrow(2, 0, n)
        if alike:
            slots = order.narrow(2, held, q)
            last: int | Tensor = held + q - 1
        else:  # one newcomer each
            last = torch.tensor(self.held[rows], device=self.device)[:, None, None]
            slots = order.gather(2, last.expand(-1, self.heads, 1))
        all_used = alike and n == held + q
        ranks_before = None
        if distance or not all_used:
            ranks_before = last - torch.empty_like(order).scatter_(2, order, self._count(n).expand_as(order))
        return Places(slots, n, ranks_before, all_used, max(room(longest + q, most), n))

    def _state(self, q: int) -> tuple[int | None, ...]:
        """On what the places of q newcomers of all rows depend besides the books; None where rows differ."""
        return q, self.held.only, self.width.only, self.capacity.only

    def _views(self, rows: slice, parts: list[Part], places: Places) -> Views:
        """What a step needs: the same, and kept, as long as newcomers push out as many."""
        again = self._kept()
        if again is not None and again.places is places:
            return again
        order, position, sums = self.books(rows)
        if places.n < self.slots:
            sums = sums.narrow(2, 0, places.n)
        readers = readers_of(parts, sums, places.slots)
        q = places.slots.shape[2]
        held, capacity = self.held.first(rows) + q, self.capacity.first(rows)
        ranked = None if capacity is None or held <= capacity else by_rank(order, position, self._count(held))
        views = Views(places, self._state(q), position, readers, ranked)
        steady = places.distance is None and None not in views.state and self.held.covers(rows)
        if not torch.compiler.is_compiling():
            self._again = views if steady else None
        return views

    def _kept(self) -> Views | None:
        """The views of the step before; a graph makes its own, or it would have to be told that they share memory."""
        return None if torch.compiler.is_compiling() else self._again

    def step(
        self,
        rows: slice,
        places: Places,
        observed: Tensor | None,
        *,
        unfinished: bool = False,
        piece: int | None = None,
    ) -> None:
        """Add newcomers at `places`, note what their queries saw, evict down to the capacity.

        Args:
            rows: they are `in_step`; or they differ in their settings only, and then evict one token at a time.
            places: what `self.places` said.
            observed: float32 [rows, heads, n], attention weights by slot, summed over the queries of the q newcomers
                (of the last one, for a policy that does not accumulate), of the rows whose policy looks; None if no
                policy does.
            unfinished: the newcomers are part of a block of which more may come; then `reopen` can take the
                evictions back.
            piece: the newcomers came so many at a time, all together by default; for policies that
                `heeds_ranks_only`, to which this is the same, so that only the trace tells the difference.
        """
        q = places.slots.shape[2]
        parts = self._parts_of(rows)
        views = self._views(rows, parts, places)
        self.width.fill(rows, places.n)
        start = self.seen.shared(rows, self.device)
        if q == 1 and isinstance(start, int):
            views.position.scatter_(2, places.slots, start)
        else:
            views.position.scatter_(2, places.slots, (self._count(q) + start).expand(places.slots.shape))
        if observed is not None:
            for reader in views.readers:
                reader.see(observed)
        self.count(rows, q)
        held, capacity = self.held.first(rows), self.capacity.first(rows)
        excess = 0 if capacity is None else max(held - capacity, 0)
        if unfinished:
            self._remember(rows, self.open_tokens(rows) + q, bool(excess))
        else:
            self._open[rows] = [None] * len(self._open[rows])
        if excess:
            now = self.seen.shared(rows, self.device) - 1
            if piece is None or piece >= q:
                self._evict(rows, parts, views, held, excess, now)
            else:
                assert isinstance(now, int) and all(part.policy.heeds_ranks_only for part in parts)
                # A newcomer pushes one token out, in its own piece. Numbers below 0 stand for what a prompt left too
                # much, which goes with the first piece.
                pieces = [max(newcomer, 0) // piece for newcomer in range(q - excess, q)]
                self._evict(
                    rows, parts, views, held, excess, [min(now - q + piece * (number + 1), now) for number in pieces]
                )

    def _evict(
        self, rows: slice, parts: list[Part], views: Views, held: int, excess: int, when: int | Tensor | list[int]
    ) -> None:
        """Let so many go; `when` is the step, of each if it is a list."""
        ranked = views.ranked
        assert ranked is not None
        while True:
            ranks = self._choose(parts, held, excess)  # [losers or losers and winners, rows, heads, m]
            slots = ranked.slots.gather(3, ranks)
            if self.trace is not None:
                now = when[-excess:][: ranks.shape[3]] if isinstance(when, list) else when
                self.trace.record(rows, ranked.position.gather(3, slots), now)
            ranked.move_to_the_end(ranks[0], slots[0])
            excess -= ranks.shape[3]
            held -= ranks.shape[3]
            if not excess:
                break
            ranked = by_rank(self.part(self.order, rows), views.position, self._count(held))
        self.held.fill(rows, held)

    def _choose(self, parts: list[Part], held: int, count: int) -> Tensor:
        """Up to `count` of the next evictions, LongTensor [1 or 2, rows, heads, m]: the ranks of the losers and, if
        they are traced and there are any, of the winners."""
        if len(parts) > 1:
            count = 1  # policies evict differently many at once
        losers, winners, compared = [], [], False
        for part in parts:
            part.held = held
            lost, won, cursor = part.policy.evict(part.config, part, count)
            if isinstance(cursor, Tensor):
                self.cursor[part.rows] = cursor.flatten().tolist()
            elif cursor is not None:
                self.cursor.fill(part.rows, cursor)
            losers.append(lost)
            winners.append(lost if won is None else won)  # the loser stands for the winner where nothing was compared
            compared |= won is not None
        if self.trace is not None and compared:
            losers += winners
        if len(losers) == 1:
            return losers[0][None]
        every = torch.cat(losers)
        return every.view(-1, parts[-1].rows.stop - parts[0].rows.start, *every.shape[1:])

    def _split(self) -> None:
        """Part the rows by their settings, which are all the same but in a simulation."""
        self._parts, first = [], 0
        for config, alike in groupby(self._config[:]):
            last = first + len(list(alike))
            self._parts.append(Part(self, slice(first, last), config))
            first = last
        self._again = None

    def _parts_of(self, rows: slice) -> list[Part]:
        if self.held.covers(rows):
            return self._parts
        first, last, _ = rows.indices(len(self.held))
        return [
            Part(self, slice(max(part.rows.start, first), min(part.rows.stop, last)), part.config)
            for part in self._parts
            if part.rows.start < last and part.rows.stop > first
        ]

    def layer_of(self, rows: slice) -> int | tuple[int, ...]:
        return self._layer.first(rows) if self._layer.alike(rows) else tuple(self._layer[rows])

    # ------------------------------------------------------------------ a block in several pieces

    def open_tokens(self, rows: slice) -> int:
        """How many tokens the unfinished block of rows that are `in_step` has."""
        block = self._open[rows][0]
        return block.tokens if block else 0

    def _remember(self, rows: slice, tokens: int, evicts: bool) -> None:
        blocks: list[_Open | None] = []
        for row in range(len(self.held))[rows]:
            order = self.order[row].clone() if evicts else None
            mark = self.trace.mark(row) if self.trace is not None else None
            blocks.append(_Open(tokens, self.held[row], self.cursor[row], order, mark))
        self._open[rows] = blocks

    def reopen(self, rows: slice) -> None:
        """Take back what was evicted after an unfinished block: slots that became free still hold their tokens."""
        for row in range(len(self.held))[rows]:
            block = self._open[row]
            if block is None or block.order is None:
                continue
            self.order[row, :, : block.order.shape[1]] = block.order
            one = slice(row, row + 1)
            self.held[one], self.cursor[one] = [block.held], [block.cursor]
            if self.trace is not None and block.mark is not None:
                self.trace.take_back(row, block.mark)

    def close(self) -> None:
        """No block is unfinished any more."""
        self._open = [None] * len(self.held)

    def compact(self, rows: slice, slots: int) -> Tensor | None:
        """Give back what blocks needed of `slots` slots, if single newcomers need less.

        Returns LongTensor [rows, heads, fewer slots], for each slot that stays the one it was; None if all stay.
        What an unfinished block evicted has to stay.
        """
        if any(most is None for most in self.capacity[rows]) or any(
            b and b.order is not None for b in self._open[rows]
        ):
            return None
        needed = max(max(most or 0, held) + 1 for most, held in zip(self.capacity[rows], self.held[rows], strict=True))
        if slots <= needed:
            return None
        order, position, sums = (self.part(t, rows) for t in (self.order, self.position, self.sums))
        old = order[..., :needed].clone()
        for tensor in (position, sums):
            tensor[..., :needed] = tensor.gather(2, old)
        order.copy_(self._count(self.slots).expand_as(order))
        self.width[rows] = self.held[rows]
        return old

    def trim(self, slots: int) -> None:
        """Keep the books of this many slots; the others are free."""
        self._replace(lambda tensor: tensor[..., :slots].contiguous())

    # ------------------------------------------------------------------ rows

    def select(self, index: Tensor) -> None:
        """Keep, repeat or reorder rows: `index` LongTensor, for each new row the old one."""
        index = index.to(self.device)
        chosen = index.tolist()
        for per_row in (self.held, self.seen, self.since, self.cursor, self.capacity, self.width, self._layer):
            per_row.select(chosen)
        self._config.select(chosen)
        self.order, self.position, self.sums = (
            t.index_select(0, index) for t in (self.order, self.position, self.sums)
        )
        self._split()
        self._open = [self._open[row] for row in chosen]
        if self.trace is not None:
            self.trace.select(index)


def room(tokens: int, most: int | None) -> int:
    """How many slots to have for `tokens`: some more at once, but not beyond `most`, unless `tokens` is."""
    target = -(-tokens // GROWTH) * GROWTH
    return target if most is None else max(min(target, most), tokens)
