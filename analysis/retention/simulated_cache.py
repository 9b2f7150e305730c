"""The rules of the built-in policies written once more and compiled, for simulations that go token by token.

A step of a ledger is some forty calls of torch, which take much longer than the sums over the few hundred tokens that
are held. Here a layer's tokens lie by rank, and the gap that one leaves is closed up. What changes in a policy has to
change here too, which tests see to; a policy that is not in `KINDS` is simulated with its own code and a ledger.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numba import njit
from torch import Tensor

from treekv import policies
from treekv.config import TreeKVConfig

TREE, TREE_LEFT, STREAMING, H2O, TOVA, RANDOM = range(6)

#: By class, for what is made from one of them may choose otherwise.
KINDS: Final[dict[type[policies.Policy], int]] = {
    policies.Tree: TREE,
    policies.TreeLeft: TREE_LEFT,
    policies.Streaming: STREAMING,
    policies.H2O: H2O,
    policies.TOVA: TOVA,
    policies.Random: RANDOM,
}

QUERIES_AT_ONCE = 128  # weights exist for this many queries at a time,
NUMBERS_AT_ONCE = 2**25  # and for fewer where they would be more numbers
# What is left of less, where the weight on one that somebody else holds is 1, has lost digits;
LOST: Final = np.float32(2.0**-20)
# and so has a single weight of less, which matters where the smallest of all is looked for.
SMALLEST: Final = np.float32(2.0**-126)


class Rule(NamedTuple):
    """Settings of one layer as numbers.

    Attributes:
        kind: the policy, one of the constants above.
        capacity, sink, recent, stride, scope, seed: as in `TreeKVConfig`; `capacity` for `cache_size`.
        place: the layer's place among those that the model has compressed.
        block: up to `blocks_end` so many tokens come before it evicts, from there on one; 1 if there is a prompt.
        since: the position of the first query whose weights count.
    """

    kind: int
    capacity: int
    sink: int
    recent: int
    stride: int
    scope: int
    seed: int
    place: int
    block: int
    blocks_end: int
    since: int


class Seen(NamedTuple):
    """What some successive queries of a layer looked at.

    Attributes:
        logits: float32 [kv_heads, q, group, n], of the keys that any walker holds and then of the q newcomers.
        weights: what softmax adds up, the largest of which is 1.
        column: uint32 [kv_heads, positions before the first query], where the keys of held ones stand.
        newcomers: where the first newcomer's key stands.
    """

    logits: np.ndarray
    weights: np.ndarray
    column: np.ndarray
    newcomers: int


_nobody: Final = np.zeros((0, 0, 0, 0), np.float32)
NOTHING: Final = Seen(_nobody, _nobody, np.zeros((0, 0), np.uint32), 0)


class Walker:
    """Some settings in one layer.

    Attributes:
        rule: these settings.
        start: the first position that it comes to; what is before is a prompt.
        evicted_at, survivor: int32 [kv_heads, T], written while it walks.
    """

    def __init__(
        self,
        rule: Rule,
        start: int,
        positions: np.ndarray,
        sums: np.ndarray,
        norms: np.ndarray | None,
        evicted_at: np.ndarray,
        survivor: np.ndarray,
    ) -> None:
        """`positions` and `sums` [kv_heads, held] of what is held of a prompt, oldest first; `norms` float32 [kv_heads,
        T] by which weights are multiplied, if they are."""
        self.rule, self.start = rule, start
        self.evicted_at, self.survivor = evicted_at, survivor
        heads, held = positions.shape
        room = min(max(held, rule.capacity) + rule.block, evicted_at.shape[1])
        self._positions = np.zeros((heads, room), np.int32)
        self._columns = np.zeros((heads, room), np.uint32)  # without a sign, which would be looked at each time
        self._sums = np.zeros((heads, room), np.float32)
        self._found = np.zeros(room, np.float32)  # room for the weights of one query
        self._positions[:, :held], self._sums[:, :held] = positions, sums
        self._norms = np.zeros((heads, 0), np.float32) if norms is None else norms
        self._state = np.array([held, 0], np.int64)  # tokens held, and the cursor

    @property
    def reads(self) -> bool:
        """Whether it looks at attention."""
        return self.rule.kind in (TREE, H2O, TOVA)

    @property
    def positions(self) -> np.ndarray:
        """int32 [kv_heads, held], oldest first."""
        return self._positions[:, : self._state[0]]

    def advance(self, first: int, last: int, seen: Seen) -> None:
        """Take the tokens first..last-1, which it has come to."""
        books = (self._positions, self._columns, self._sums, self._norms, self._found, self._state)
        _advance(self.rule, first, last, *seen, *books, self.evicted_at, self.survivor)


def rule(config: TreeKVConfig, capacity: int, place: int, blocks_end: int, since: int) -> Rule:
    """Of settings whose policy has one."""
    kind = KINDS[type(policies.get(config.policy))]
    scope = config.scope if kind == TREE else 2
    block = config.block_size if config.prefill == "stream" else 1
    sizes = (capacity, config.sink_size, config.recent_size, config.stride, scope)
    return Rule(kind, *sizes, config.seed, place, block, blocks_end, since)


def walk(q: Tensor, k: Tensor, scaling: float, walkers: list[Walker], progress: Callable[[int], object]) -> None:
    """Let walkers of one layer go through a text.

    Args:
        q: [query_heads, T, head_dim].
        k: [kv_heads, T, head_dim].
        scaling: of their products.
        walkers: they have the whole way before them.
        progress: told how many tokens of walkers were done.
    """
    tokens = k.shape[1]
    starts = {walker.start for walker in walkers}
    first = min(starts)
    for walker in walkers:
        progress(walker.start)
    while first < tokens:
        under_way = [walker for walker in walkers if walker.start <= first]
        reading = [walker for walker in under_way if walker.reads]
        held = sum(walker.positions.shape[1] for walker in reading)
        numbers = len(q) * (min(held, first) + QUERIES_AT_ONCE)
        last = min(first + max(min(QUERIES_AT_ONCE, NUMBERS_AT_ONCE // numbers), 1), tokens)
        last = min(start for start in {*starts, last} if start > first)
        seen = _look(q, k, scaling, reading, first, last) if reading else NOTHING
        for walker in under_way:
            walker.advance(first, last, seen if walker.reads else NOTHING)
        progress((last - first) * len(under_way))
        first = last


def _look(q: Tensor, k: Tensor, scaling: float, walkers: list[Walker], first: int, last: int) -> Seen:
    """Attention of the queries first..last-1 over what any of the walkers holds and over themselves."""
    heads, tokens, dim = k.shape
    asking = last - first
    held = np.zeros((heads, first), bool)
    for walker in walkers:
        np.put_along_axis(held, walker.positions, True, axis=1)
    most = int(held.sum(1).max(initial=0))
    column = np.zeros((heads, first), np.uint32)
    index = np.zeros((heads, most), np.int64)  # heads that hold fewer see the first key again, to no effect
    for head in range(heads):
        positions = np.flatnonzero(held[head])
        index[head, : len(positions)] = positions
        column[head, positions] = np.arange(len(positions), dtype=np.uint32)
    at = torch.from_numpy(index + np.arange(heads)[:, None] * tokens).to(k.device)
    keys = k.flatten(0, 1).index_select(0, at.flatten()).view(heads, most, dim)
    keys = torch.cat([keys, k[:, first:last]], dim=1).float()
    queries = q[:, first:last].float().unflatten(0, (heads, -1)) * scaling
    group = queries.shape[1]
    logits = queries.transpose(1, 2).flatten(1, 2) @ keys.transpose(1, 2)
    # The largest may be that of one who comes later, whom no walker holds yet.
    weights = (logits - logits.amax(-1, keepdim=True)).exp_()
    shape = (heads, asking, group, most + asking)
    return Seen(logits.view(shape).cpu().numpy(), weights.view(shape).cpu().numpy(), column, most)


def _compiled(**options: Any) -> Callable[[Callable], Callable]:
    """Machine code is kept for the next process, where there is a place for it."""

    def decorate(function: Callable) -> Callable:
        try:
            return njit(nogil=True, cache=True, **options)(function)
        except RuntimeError:  # neither beside the source nor in the user's folder
            return njit(nogil=True, **options)(function)

    return decorate


@_compiled(fastmath={"reassoc", "contract", "nsz"})
def _observe(
    weights: np.ndarray,
    logits: np.ndarray,
    columns: np.ndarray,
    norms: np.ndarray,
    found: np.ndarray,
    positions: np.ndarray,
    sums: np.ndarray,
    each_counts: bool,
) -> None:
    """Add to `sums` [n] what a KV head's queries, the rows of `weights` and `logits`, give to the n that are held: the
    mean of their softmax over these. The smallest of them are exact if `each_counts`."""
    n, group = len(sums), np.float32(len(weights))
    for row in range(len(weights)):
        among_all = weights[row]
        for j in range(n):
            found[j] = among_all[columns[j]]
        total, least = np.float32(0), np.float32(1)
        for j in range(n):
            total += found[j]
        if each_counts:
            for j in range(n):
                least = min(least, found[j])
        if not total > LOST or (each_counts and least < SMALLEST):
            most = np.float32(-np.inf)
            for j in range(n):
                most = max(most, logits[row, columns[j]])
            total = np.float32(0)
            for j in range(n):
                found[j] = np.exp(logits[row, columns[j]] - most)
                total += found[j]
        share = np.float32(1) / (total * group)
        if len(norms):
            for j in range(n):
                sums[j] += found[j] * share * norms[positions[j]]
        else:
            for j in range(n):
                sums[j] += found[j] * share


@_compiled()
def _close_up(values: np.ndarray, rank: int, n: int) -> None:
    """Take out `values[rank]` of n."""
    for j in range(rank, n - 1):
        values[j] = values[j + 1]


@_compiled()
def _lowest_average(
    sums: np.ndarray, positions: np.ndarray, left: int, scope: int, since: int, seen: int
) -> tuple[int, int]:
    """Policy "tree": the loser and the winner of `scope` neighbours from rank `left` on."""
    loser, winner = left, left
    least = most = sums[left] / np.float32(seen - max(positions[left], since))
    for j in range(left + 1, left + scope):
        average = sums[j] / np.float32(seen - max(positions[j], since))
        if average < least:
            loser, least = j, average
        if average >= most:
            winner, most = j, average
    if winner == loser:  # not a number
        winner = left + 1 if loser == left else left
    return loser, winner


@_compiled()
def _lowest_sum(sums: np.ndarray, first: int, last: int) -> int:
    """Policies "h2o" and "tova": the rank from first to last-1 with the lowest of sums [heads, n] over heads."""
    loser, least = first, np.float32(np.inf)
    for j in range(first, last):
        total = np.float32(0)
        for head in range(len(sums)):
            total += sums[head, j]
        if total < least:
            loser, least = j, total
    return loser


@_compiled()
def _hashed(seed: int, place: int, head: int, held: int, step: int) -> int:
    """Policy "random": as `treekv.policies.random.hashed`."""
    value = np.uint64(0)
    for part in (seed, place, head, held, step):
        value = (value + np.uint64(part) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        value = value ^ (value >> np.uint64(31))
    return np.int64(value >> np.uint64(33))


@_compiled()
def _advance(
    rule: Rule,
    first: int,
    last: int,
    logits: np.ndarray,
    weights: np.ndarray,
    column: np.ndarray,
    newcomers: int,
    positions: np.ndarray,
    columns: np.ndarray,
    sums: np.ndarray,
    norms: np.ndarray,
    found: np.ndarray,
    state: np.ndarray,
    evicted_at: np.ndarray,
    survivor: np.ndarray,
) -> None:
    """The tokens first..last-1 of one walker; the books are those of `Walker`."""
    heads = len(positions)
    held, cursor = state
    reads = rule.kind == TREE or rule.kind == H2O or rule.kind == TOVA
    region = rule.capacity - rule.sink - rule.recent
    if reads:
        for head in range(heads):
            for j in range(held):
                columns[head, j] = column[head, positions[head, j]]
    for step in range(first, last):
        for head in range(heads):
            positions[head, held] = step
            columns[head, held] = newcomers + step - first
            sums[head, held] = 0
        held += 1
        evicts = held > rule.capacity and (step >= rule.blocks_end - 1 or (step + 1) % rule.block == 0)
        if rule.kind == TOVA:  # heeds nothing but what the last query before an eviction looked at
            looks = evicts
            if evicts:
                sums[:, :held] = 0
        else:
            looks = reads
        if looks:
            for head in range(heads):
                rows = weights[head, step - first], logits[head, step - first]
                books = columns[head], norms[head], found, positions[head], sums[head, :held]
                _observe(*rows, *books, rule.kind == TOVA)
        while evicts and held > rule.capacity:
            last_candidate = held - rule.recent
            left = rule.sink + cursor
            common = _lowest_sum(sums, rule.sink, last_candidate) if rule.kind == TOVA else 0
            for head in range(heads):
                loser, winner = rule.sink, -1  # policy "streaming"
                if rule.kind == TREE:
                    loser, winner = _lowest_average(sums[head], positions[head], left, rule.scope, rule.since, step + 1)
                elif rule.kind == TREE_LEFT:
                    loser, winner = left, left + 1
                elif rule.kind == H2O:
                    loser = _lowest_sum(sums[head : head + 1], rule.sink, last_candidate)
                elif rule.kind == TOVA:
                    loser = common
                elif rule.kind == RANDOM:
                    draw = _hashed(rule.seed, rule.place, head, held, step)
                    loser = rule.sink + draw % (last_candidate - rule.sink)
                gone = positions[head, loser]
                evicted_at[head, gone] = step
                if winner >= 0:
                    survivor[head, gone] = positions[head, winner]
                _close_up(positions[head], loser, held)
                if reads:
                    _close_up(columns[head], loser, held)
                    _close_up(sums[head], loser, held)
            held -= 1
            if rule.kind == TREE or rule.kind == TREE_LEFT:
                cursor = (cursor + rule.stride) % (region + 2 - rule.scope)
    state[0], state[1] = held, cursor
