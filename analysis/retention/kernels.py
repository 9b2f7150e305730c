"""Evictions in machine code, for simulations that process one token at a time.

A step of a ledger is some forty calls of torch, which take much longer than the sums over the few hundred tokens that
are kept. Here a layer's tokens are stored by rank, and an eviction moves later ranks down by one. The rule itself is
data, a `treekv.policies.Contest`; no policy is named here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
from numba import njit

from treekv.policies.contest import AVERAGE, DRAW, LAST, SUM, Contest
from treekv.policies.contest import sweep_start as _sweep_start

# Softmax weights are computed relative to the largest among all tokens that any simulated cache keeps. Where the tokens
# of one cache together have less than this share, their weights have lost digits and are computed anew;
MIN_SHARE: Final = np.float32(2.0**-20)
# and so has a single weight below the smallest normal number, which matters where the smallest of all is looked for.
FLT_MIN: Final = np.float32(2.0**-126)


class Rule(NamedTuple):
    """How one layer evicts, as numbers.

    Attributes:
        contest: who competes, by which score, and where the next contest starts.
        capacity: tokens kept after a step.
        layer_index: the layer's place among the compressed layers of the model.
        first_head: the number of the first KV head.
        block: up to `blocks_end`, evictions happen after every so many tokens, from there on after each; 1 if there is
            a prompt.
        blocks_end: the first position that is decoded one token at a time.
        since: the position of the first query whose weights count.
        delay: how many tokens after a token a query must come to count for it.
    """

    contest: Contest
    capacity: int
    layer_index: int
    first_head: int
    block: int
    blocks_end: int
    since: int
    delay: int = 0


def compiled(**options: Any) -> Callable[[Callable], Callable]:
    """Compile with numba; the machine code is kept for the next process where there is a writable place for it."""

    def decorate(function: Callable) -> Callable:
        try:
            return njit(nogil=True, cache=True, **options)(function)
        except RuntimeError:  # neither beside the source nor in the user's folder
            return njit(nogil=True, **options)(function)

    return decorate


@compiled(fastmath={"reassoc", "contract", "nsz"})
def observe(
    weights: np.ndarray,
    logits: np.ndarray,
    columns: np.ndarray,
    norms: np.ndarray,
    found: np.ndarray,
    positions: np.ndarray,
    sums: np.ndarray,
    counted: int,
    exact_smallest: bool,
) -> None:
    """Add to the first `counted` of `sums` [n] the mean, over the queries of a KV head, of their softmax over the n
    tokens that are kept.

    Args:
        weights, logits: [group, columns], of each query of the head.
        columns: [n], the column of each kept token.
        norms: [T], factors by position, or none.
        found: [n or more], scratch space.
        positions: [n].
        sums: [n], changed.
        counted: at most n; newer tokens do not count the query.
        exact_smallest: whether the smallest weights are compared with one another.
    """
    n, group = len(sums), np.float32(len(weights))
    for row in range(len(weights)):
        among_all = weights[row]
        for j in range(n):
            found[j] = among_all[columns[j]]
        total, least = np.float32(0), np.float32(1)
        for j in range(n):
            total += found[j]
        if exact_smallest:
            for j in range(n):
                least = min(least, found[j])
        if not total > MIN_SHARE or (exact_smallest and least < FLT_MIN):
            most = np.float32(-np.inf)
            for j in range(n):
                most = max(most, logits[row, columns[j]])
            total = np.float32(0)
            for j in range(n):
                found[j] = np.exp(logits[row, columns[j]] - most)
                total += found[j]
        share = np.float32(1) / (total * group)
        if len(norms):
            for j in range(counted):
                sums[j] += found[j] * share * norms[positions[j]]
        else:
            for j in range(counted):
                sums[j] += found[j] * share


@compiled()
def remove_at(values: np.ndarray, rank: int, n: int) -> None:
    """Remove `values[rank]` of n; later ones move down."""
    for j in range(rank, n - 1):
        values[j] = values[j + 1]


@compiled()
def compare(
    averages: bool, sums: np.ndarray, positions: np.ndarray, left: int, right: int, since: int, seen: int, delay: int
) -> tuple[int, int]:
    """The loser and the survivor among the ranks left ... right - 1, by their total over the rows of `sums`,
    `positions` [heads, n]: the oldest of the lowest, and the newest of the highest of the others."""
    loser, survivor = left, left
    least = most = np.float32(0)
    for rank in range(left, right):
        total = np.float32(0)
        for head in range(len(sums)):
            if averages:
                count = seen - max(positions[head, rank] + delay, since)
                total += sums[head, rank] / np.float32(count) if count > 0 else np.float32(np.inf)
            else:
                total += sums[head, rank]
        if rank == left:
            least = most = total
        if total < least:
            loser, least = rank, total
        if total >= most:
            survivor, most = rank, total
    if survivor == loser:  # not a number
        survivor = left + 1 if loser == left else left
    return loser, survivor


@compiled()
def lowest(
    averages: bool, sums: np.ndarray, positions: np.ndarray, left: int, right: int, since: int, seen: int, delay: int
) -> int:
    """The oldest of the lowest among the ranks left ... right - 1, by their total over the rows of `sums`, `positions`
    [heads, n]."""
    if averages:
        return compare(True, sums, positions, left, right, since, seen, delay)[0]
    loser, least = left, np.float32(np.inf)
    for rank in range(left, right):
        total = np.float32(0)
        for head in range(len(sums)):
            total += sums[head, rank]
        if total < least:
            loser, least = rank, total
    return loser


@compiled()
def draw(seed: int, layer_index: int, head: int, held: int, step: int) -> int:
    """As `treekv.policies.ranking.splitmix`."""
    value = np.uint64(0)
    for part in (seed, layer_index, head, held, step):
        value = (value + np.uint64(part) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        value = value ^ (value >> np.uint64(31))
    return np.int64(value >> np.uint64(33))


sweep_start = compiled()(_sweep_start)


@compiled(inline="always")  # passing its arrays would take longer than a cheap contest
def evict(
    rule: Rule,
    step: int,
    held: int,
    cursor: int,
    positions: np.ndarray,
    columns: np.ndarray,
    sums: np.ndarray,
    evicted_at: np.ndarray,
    survivor: np.ndarray,
) -> tuple[int, int]:
    """Evict down to the capacity after the token at position `step`; returns the tokens held and the cursor.

    The other arguments are those of `advance`.
    """
    contest, heads = rule.contest, len(positions)
    scored = contest.by == AVERAGE or contest.by == SUM or contest.by == LAST
    while held > rule.capacity:
        if contest.height > 0 and cursor == 0:
            cursor = sweep_start(contest.height, contest.wrap, step + 1 - held)
        left, right = contest.first + cursor, held - contest.recent
        if contest.width > 0:
            right = min(right, left + contest.width)
        loser, winner = left, right - 1  # by NOTHING
        for head in range(heads):
            if head == 0 or not contest.heads_together:  # in the first head none has lost a token yet
                if contest.by == DRAW:
                    drawn = draw(contest.seed, rule.layer_index, rule.first_head + head, held, step)
                    loser, winner = left + drawn % (right - left), right - 1
                    if loser == winner:
                        winner -= 1
                elif scored:
                    first, last = (0, heads) if contest.heads_together else (head, head + 1)
                    judged = sums[first:last], positions[first:last], left, right, rule.since, step + 1, rule.delay
                    if contest.absorbs:
                        loser, winner = compare(contest.by == AVERAGE, *judged)
                    else:
                        loser = lowest(contest.by == AVERAGE, *judged)
            evicted = positions[head, loser]
            evicted_at[head, evicted] = step
            if contest.absorbs:
                survivor[head, evicted] = positions[head, winner]
            remove_at(positions[head], loser, held)
            if scored:
                remove_at(columns[head], loser, held)
                remove_at(sums[head], loser, held)
        held -= 1
        cursor = (cursor + contest.stride) % contest.wrap
    return held, cursor


@compiled()
def advance(
    rule: Rule,
    first: int,
    last: int,
    logits: np.ndarray,
    weights: np.ndarray,
    column: np.ndarray,
    new_column: int,
    positions: np.ndarray,
    columns: np.ndarray,
    sums: np.ndarray,
    norms: np.ndarray,
    found: np.ndarray,
    state: np.ndarray,
    evicted_at: np.ndarray,
    survivor: np.ndarray,
) -> None:
    """Process the tokens first ... last - 1 in one simulated layer.

    Args:
        rule: its settings.
        first, last: positions.
        logits, weights, column, new_column: the fields of `SharedLogits`.
        positions, columns, sums, norms, found, state: the arrays of `SimulatedCache`, changed.
        evicted_at, survivor: int32 [kv_heads, T], written.
    """
    heads, contest = len(positions), rule.contest
    held, cursor = state
    reads = contest.by == AVERAGE or contest.by == SUM or contest.by == LAST
    if reads:
        for head in range(heads):
            for j in range(held):
                columns[head, j] = column[head, positions[head, j]]
    for step in range(first, last):
        for head in range(heads):
            positions[head, held] = step
            columns[head, held] = new_column + step - first
            sums[head, held] = 0
        held += 1
        evicts = held > rule.capacity and (step >= rule.blocks_end - 1 or (step + 1) % rule.block == 0)
        looks = reads
        if contest.by == LAST:  # only the last query before an eviction matters
            looks = evicts
            if evicts:
                sums[:, :held] = 0
        if looks:
            for head in range(heads):
                rows = weights[head, step - first], logits[head, step - first]
                counted = held
                if rule.delay > 0:
                    while counted > 0 and positions[head, counted - 1] > step - rule.delay:
                        counted -= 1
                kept = columns[head], norms[head], found, positions[head], sums[head, :held]
                observe(*rows, *kept, counted, contest.by == LAST)
        if evicts:
            held, cursor = evict(rule, step, held, cursor, positions, columns, sums, evicted_at, survivor)
    state[0], state[1] = held, cursor
