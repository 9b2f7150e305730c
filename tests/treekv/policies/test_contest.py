"""Random contests on lists, in torch and in machine code evict the same tokens."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.retention import kernels
from tests.reference.policies import ContestRule, Entry
from treekv import TreeKVConfig, TreeKVError, register_policy, unregister_policy
from treekv.cache.ledger import Ledger
from treekv.policies import AVERAGE, DRAW, LAST, NOTHING, SUM, Contest, Policy
from treekv.policies.contest import check_contest

HEADS, TOKENS = 2, 60


class ByNumbers(Policy):
    """Evicts by any contest."""

    name = "by numbers"

    options = ("importance",)

    def __init__(self, contest: Contest) -> None:
        self.by, self._contest = contest.by, contest

    def contest(self, settings, capacity):
        return self._contest

    def select_prompt(self, settings, prompt):
        raise NotImplementedError


@st.composite
def contests(draw) -> tuple[Contest, int, int]:
    """A contest, a capacity in which it can be held, and how late a query must come to count for a token."""
    by = draw(st.sampled_from([NOTHING, AVERAGE, SUM, LAST, DRAW]))
    capacity, absorbs = draw(st.integers(4, 12)), draw(st.booleans())
    needed = 2 if absorbs else 1
    first = draw(st.integers(0, capacity + 1 - needed))
    recent = draw(st.integers(0, capacity + 1 - needed - first))
    width = draw(st.sampled_from([0, *range(needed, 6)]))
    stride = draw(st.integers(0, 4))
    wrap = draw(st.integers(1, capacity + 2 - needed - first - recent))
    seed = draw(st.sampled_from([0, 7, 2**63 - 1]))
    height = draw(st.sampled_from([0, 1, 2, 3, 62])) if stride == 1 else 0
    delay = draw(st.integers(0, (capacity - 1) // 2)) if by == AVERAGE else 0
    return Contest(by, first, width, recent, stride, wrap, absorbs, draw(st.booleans()), seed, height), capacity, delay


class OnLists:
    def __init__(self, contest: Contest, capacity: int, delay: int) -> None:
        self.rule, self.capacity, self.delay = ContestRule(contest), capacity, delay
        self.heads: list[list[Entry]] = [[] for _ in range(HEADS)]
        self.evicted_at, self.survivor = (np.full((HEADS, TOKENS), -1) for _ in range(2))
        self.seen = 0

    @property
    def held(self) -> int:
        return len(self.heads[0])

    def step(self, weights: torch.Tensor) -> None:
        """`weights` [heads, q, held + q], by rank."""
        q = weights.shape[1]
        for entries, of_head in zip(self.heads, weights.tolist()):
            entries.extend(Entry(self.seen + i) for i in range(q))
            for i in range(q):
                for entry, weight in zip(entries[: len(entries) - q + i + 1], of_head[i]):
                    entry.see(weight, self.seen + i, self.delay)
        self.seen += q
        while self.held > self.capacity:
            for h, eviction in enumerate(self.rule.evict(self.heads, self.seen - 1)):
                self.evicted_at[h, eviction.loser] = eviction.step
                if eviction.winner is not None:
                    self.survivor[h, eviction.loser] = eviction.winner


class Compiled:
    def __init__(self, contest: Contest, capacity: int, delay: int) -> None:
        self.rule = kernels.Rule(contest, capacity, 0, 0, 1, 0, 0, delay)
        self.positions = np.zeros((HEADS, TOKENS), np.int32)
        self.columns, self.sums = np.zeros((HEADS, TOKENS), np.uint32), np.zeros((HEADS, TOKENS), np.float32)
        self.evicted_at, self.survivor = (np.full((HEADS, TOKENS), -1, np.int32) for _ in range(2))
        self.held = self.cursor = self.seen = 0

    def step(self, weights: torch.Tensor) -> None:
        q = weights.shape[1]
        self.positions[:, self.held : self.held + q] = np.arange(self.seen, self.seen + q)
        self.sums[:, self.held : self.held + q] = 0
        self.held, self.seen = self.held + q, self.seen + q
        if self.rule.contest.by == LAST:
            self.sums[:, : self.held] = weights[:, -1].numpy()
        else:
            query = np.arange(self.seen - q, self.seen)[:, None]
            counts = self.positions[:, None, : self.held] <= query - self.rule.delay
            self.sums[:, : self.held] += (weights.numpy() * counts).sum(1)
        arrays = self.positions, self.columns, self.sums, self.evicted_at, self.survivor
        self.held, self.cursor = kernels.evict(self.rule, self.seen - 1, self.held, self.cursor, *arrays)


def made_weights(generator: torch.Generator, q: int, held: int) -> torch.Tensor:
    """float32 [heads, q, held + q] of halves, so that sums are exact and ties are frequent; causal."""
    weights = (torch.rand(HEADS, q, held + q, generator=generator) * 3).round() / 2
    return weights.masked_fill(~torch.ones(q, held + q).tril(held).bool(), 0.0)


def step_ledger(ledger: Ledger, rows: slice, weights: torch.Tensor) -> None:
    """`weights` [rows, heads, q, held + q], by rank."""
    q = weights.shape[2]
    plan = ledger.plan_slots(rows, q)
    ranks = weights.shape[3] - 1 - plan.distance
    index = ranks.clamp(0, weights.shape[3] - 1)[:, :, None].expand(-1, -1, q, -1)
    observed = weights.gather(3, index).masked_fill(plan.distance[:, :, None] < 0, 0.0)
    if not (ledger.delay and q > 1):
        observed = observed.sum(2) if ledger.policy.accumulates else observed[:, :, -1]
    ledger.step(rows, plan, observed if ledger.policy.uses_attention else None)


@contextlib.contextmanager
def ledger_of(contest: Contest, capacity: int, delay: int, rows: int) -> Iterator[Ledger]:
    register_policy(ByNumbers(contest), replace=True)
    try:
        sizes = dict(cache_size=capacity, sink_size=0, recent_size=2 * delay, block_size=1)
        importance = "late" if delay else "attention"
        config = TreeKVConfig(policy="by numbers", trace=True, importance=importance, **sizes)
        assert config.delay == delay
        yield Ledger(config, rows, HEADS)
    finally:
        unregister_policy("by numbers")


@pytest.mark.slow
@settings(max_examples=300)
@given(made=contests(), blocks=st.lists(st.integers(1, 5), min_size=8, max_size=12), seed=st.integers(0, 2**20))
def test_lists_torch_and_machine_code_evict_the_same(made, blocks, seed):
    with ledger_of(*made, rows=1) as ledger:
        lists, compiled = OnLists(*made), Compiled(*made)
        generator = torch.Generator().manual_seed(seed)
        for q in blocks:
            weights = made_weights(generator, q, lists.held)
            step_ledger(ledger, slice(0, 1), weights[None])
            lists.step(weights)
            compiled.step(weights)
        for field in ("evicted_at", "survivor"):
            expected = getattr(lists, field)[:, : lists.seen]
            assert np.array_equal(getattr(compiled, field)[:, : lists.seen], expected), field
            assert np.array_equal(getattr(ledger.trace, field)[0].numpy(), expected), field


@pytest.mark.slow
@settings(max_examples=150)
@given(made=contests(), more=st.tuples(st.integers(0, 8), st.integers(0, 8)), seed=st.integers(0, 2**20))
def test_rows_with_different_cursors_evict_as_they_do_alone(made, more, seed):
    capacity = made[1]
    with ledger_of(*made, rows=2) as ledger:
        lists = [OnLists(*made), OnLists(*made)]
        generator = torch.Generator().manual_seed(seed)
        for row, tokens in enumerate(more):
            for _ in range(capacity + tokens):
                weights = made_weights(generator, 1, lists[row].held)
                step_ledger(ledger, slice(row, row + 1), weights[None])
                lists[row].step(weights)
        for _ in range(2 * capacity):
            weights = torch.stack([made_weights(generator, 1, capacity) for _ in lists])
            assert ledger.can_step_together(slice(0, 2), 1)
            step_ledger(ledger, slice(0, 2), weights)
            for one, own in zip(lists, weights):
                one.step(own)
        for row, one in enumerate(lists):
            for field in ("evicted_at", "survivor"):
                found = getattr(ledger.trace, field)[row, :, : one.seen].numpy()
                assert np.array_equal(found, getattr(one, field)[:, : one.seen]), (row, field)


@pytest.mark.parametrize(
    "contest, words",
    [
        (Contest(9, 0), ["by=9", "between 0 and 4"]),
        (Contest(SUM, -1), ["first=-1", "at least 0"]),
        (Contest(SUM, 0, wrap=0), ["wrap=0", "at least 1"]),
        (Contest(SUM, 0, width=1.5), ["width=1.5", "whole number"]),
        (Contest(SUM, 0, stride=1, height=63), ["height=63", "between 0 and 62"]),
        (Contest(SUM, 0, stride=2, height=3), ["height=3", "stride=2", "stride 1"]),
        (Contest(SUM, 9), ["leaves 0 competitors", "rank 9", "at least 1"]),
        (Contest(AVERAGE, 2, width=2, stride=1, wrap=7, absorbs=True), ["leaves 1 competitors", "at least 2"]),
        (Contest(AVERAGE, 2, width=1, absorbs=True), ["leaves 1", "at least 2"]),
    ],
)
def test_an_impossible_contest_is_refused(contest, words):
    with pytest.raises(TreeKVError) as error:
        check_contest(contest, 8, "mine")
    for word in ["'mine'", *words]:
        assert word in str(error.value)


def test_settings_refuse_a_contest_that_does_not_fit():
    register_policy(ByNumbers(Contest(SUM, first=20)))
    try:
        with pytest.raises(TreeKVError, match="'by numbers' leaves"):
            TreeKVConfig(policy="by numbers", cache_size=16)
    finally:
        unregister_policy("by numbers")
