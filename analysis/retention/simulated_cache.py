"""Simulated caches: several settings process one layer of a captured text together, by compiled rules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from analysis.retention import kernels
from analysis.retention.kernels import Rule
from treekv.policies.contest import DRAW, NOTHING

QUERIES_AT_ONCE = 128  # weights exist for this many queries at a time,
NUMBERS_AT_ONCE = 2**25  # and for fewer where they would be more numbers


class SharedLogits(NamedTuple):
    """Attention of some successive queries of a layer over all tokens that any of its simulated caches keeps.

    Attributes:
        logits: float32 [kv_heads, q, group, n], of the keys that any cache keeps and then of the q new tokens.
        weights: the numerators of softmax, the largest of which is 1.
        column: uint32 [kv_heads, positions before the first query], the column of each kept key.
        new_column: the column of the first new token's key.
    """

    logits: np.ndarray
    weights: np.ndarray
    column: np.ndarray
    new_column: int

    def of(self, heads: slice) -> SharedLogits:
        """The same of some KV heads."""
        if heads == slice(None):
            return self
        return SharedLogits(self.logits[heads], self.weights[heads], self.column[heads], self.new_column)


_EMPTY: Final = np.zeros((0, 0, 0, 0), np.float32)
#: For rules that do not look at attention.
NO_LOGITS: Final = SharedLogits(_EMPTY, _EMPTY, np.zeros((0, 0), np.uint32), 0)


class SimulatedCache:
    """One setting in one layer, or in one KV head of it.

    Args:
        rule: the setting.
        start: the first position to process; what is before is a prompt.
        positions, sums: [kv_heads, held] of what is kept of the prompt, oldest first.
        norms: float32 [kv_heads, T], factors of the weights by position, or None.
        evicted_at, survivor: int32 [kv_heads, T], written while tokens are processed.
        of_layer: which KV heads of the layer these are.
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
        of_layer: slice = slice(None),
    ) -> None:
        self.rule, self.start, self.of_layer = rule, start, of_layer
        self.evicted_at, self.survivor = evicted_at, survivor
        heads, held = positions.shape
        room = min(max(held, rule.capacity) + rule.block, evicted_at.shape[1])
        self._positions = np.zeros((heads, room), np.int32)
        self._columns = np.zeros((heads, room), np.uint32)  # unsigned, which saves a check for negative indices
        self._sums = np.zeros((heads, room), np.float32)
        self._found = np.zeros(room, np.float32)  # scratch space for the weights of one query
        self._positions[:, :held], self._sums[:, :held] = positions, sums
        self._norms = np.zeros((heads, 0), np.float32) if norms is None else norms
        self._state = np.array([held, 0], np.int64)  # tokens held, and the cursor

    @property
    def uses_attention(self) -> bool:
        return self.rule.contest.by not in (NOTHING, DRAW)

    @property
    def positions(self) -> np.ndarray:
        """int32 [kv_heads, held], oldest first."""
        return self._positions[:, : self._state[0]]

    def advance(self, first: int, last: int, shared: SharedLogits) -> None:
        """Process the next tokens, first ... last - 1."""
        state = (self._positions, self._columns, self._sums, self._norms, self._found, self._state)
        kernels.advance(self.rule, first, last, *shared.of(self.of_layer), *state, self.evicted_at, self.survivor)


def advance_all(
    q: Tensor, k: Tensor, scaling: float, caches: list[SimulatedCache], progress: Callable[[float], object]
) -> None:
    """Process a whole text in all simulated caches of one layer.

    Args:
        q: [query_heads, T, head_dim].
        k: [kv_heads, T, head_dim].
        scaling: factor of their products.
        caches: none has processed anything yet.
        progress: called with numbers of tokens, summed over the caches, as they are done; one of a part of the heads
            counts as this part.
    """
    share = [cache.positions.shape[0] / len(k) for cache in caches]
    tokens = k.shape[1]
    starts = {cache.start for cache in caches}
    first = min(starts)
    for cache, part in zip(caches, share, strict=True):
        progress(cache.start * part)
    while first < tokens:
        started = [cache for cache in caches if cache.start <= first]
        reading = [cache for cache in started if cache.uses_attention]
        last = tokens
        if reading:
            held = sum(cache.positions.shape[1] for cache in reading)
            numbers = len(q) * (min(held, first) + QUERIES_AT_ONCE)
            last = min(first + max(min(QUERIES_AT_ONCE, NUMBERS_AT_ONCE // numbers), 1), tokens)
        last = min(start for start in {*starts, last} if start > first)
        shared = compute_logits(q, k, scaling, reading, first, last) if reading else NO_LOGITS
        for cache in started:
            cache.advance(first, last, shared if cache.uses_attention else NO_LOGITS)
        progress((last - first) * sum(part for cache, part in zip(caches, share, strict=True) if cache in started))
        first = last


def compute_logits(
    q: Tensor, k: Tensor, scaling: float, caches: list[SimulatedCache], first: int, last: int
) -> SharedLogits:
    """Attention of the queries first ... last - 1 over what any of the caches keeps and over themselves."""
    heads, tokens, dim = k.shape
    queries_count = last - first
    held = np.zeros((heads, first), bool)
    for cache in caches:
        np.put_along_axis(held[cache.of_layer], cache.positions, True, axis=1)
    most = int(held.sum(1).max(initial=0))
    column = np.zeros((heads, first), np.uint32)
    index = np.zeros((heads, most), np.int64)  # heads that keep fewer read the first key again, to no effect
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
    # The largest may belong to a later token, which no cache keeps yet.
    weights = (logits - logits.amax(-1, keepdim=True)).exp_()
    shape = (heads, queries_count, group, most + queries_count)
    return SharedLogits(logits.view(shape).cpu().numpy(), weights.view(shape).cpu().numpy(), column, most)
