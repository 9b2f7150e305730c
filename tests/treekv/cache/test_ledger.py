"""The ledger and its policies against the rules on Python lists, with random scores and no model."""

from __future__ import annotations

import gc
import random
import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.policies_table import CONTESTS
from tests.reference.policies import Entry, late_delay, make_rule, select_prompt
from treekv import TreeKVConfig
from treekv.cache.ledger import Ledger
from treekv.policies import Prompt, get

HEADS = 2


def run_both(config: TreeKVConfig, calls: list[int], seed: int, ties: bool) -> None:
    """Feed random weights to the ledger and to lists, in blocks of the given lengths."""
    generator = torch.Generator().manual_seed(seed)
    ledger = Ledger(config, rows=1, heads=HEADS)
    rule = make_rule(config)
    heads: list[list[Entry]] = [[] for _ in range(HEADS)]
    evictions: list[list] = [[] for _ in range(HEADS)]
    row, seen = slice(0, 1), 0
    for q in calls:
        held = ledger.held[0]
        weights = torch.rand(1, HEADS, q, held + q, generator=generator)
        if ties:
            weights = (weights * 3).round() / 2  # sums of halves are exact, so ties are ties
        weights = weights.masked_fill(~torch.ones(q, held + q).tril(held).bool(), 0.0)
        by_rank = weights[0]
        for h, entries in enumerate(heads):
            entries.extend(Entry(seen + i) for i in range(q))
            for i in range(q):
                for rank in range(held + i + 1):
                    entries[rank].see(by_rank[h, i, rank].item(), seen + i, late_delay(config))
        while len(heads[0]) > config.cache_size:
            for past, eviction in zip(evictions, rule.evict(heads, seen + q - 1)):
                past.append(eviction)
        plan = ledger.plan_slots(row, q)
        used = plan.distance >= 0
        assert used.sum() == HEADS * (held + q) and plan.all_used == bool(used.all())
        observed = None
        if ledger.policy.uses_attention:
            ranks = (held + q - 1 - plan.distance).clamp(max=held + q - 1)
            by_slot = by_rank[None].gather(3, ranks[:, :, None].expand(-1, -1, q, -1)).masked_fill(~used[:, :, None], 0)
            observed = by_slot.sum(2) if ledger.policy.accumulates else by_slot[:, :, -1]
            if late_delay(config) and q > 1:
                observed = by_slot
        ledger.step(row, plan, observed)
        seen += q
        check_invariants(ledger, config, seen)
        for h, entries in enumerate(heads):
            assert ledger.positions(row)[0, h].tolist() == [e.position for e in entries]
            if observed is not None and ledger.policy.accumulates:
                slots = ledger.order[0, h, : len(entries)]
                assert torch.allclose(ledger.sums[0, h, slots], torch.tensor([e.total for e in entries]))
                assert ledger.counts(row)[0, h, slots].tolist() == [e.count for e in entries]
    for h, past in enumerate(evictions):
        for eviction in past:
            assert ledger.trace.evicted_at[0, h, eviction.loser] == eviction.step
            expected = -1 if eviction.winner is None else eviction.winner
            assert ledger.trace.survivor[0, h, eviction.loser] == expected
        assert (ledger.trace.evicted_at[0, h] >= 0).sum() == len(past)


def check_invariants(ledger: Ledger, config: TreeKVConfig, seen: int) -> None:
    held = ledger.held[0]
    assert held == min(seen, config.cache_size)
    for h in range(HEADS):
        assert sorted(ledger.order[0, h].tolist()) == list(range(ledger.slots))  # no slot twice, none lost
        positions = ledger.positions(slice(0, 1))[0, h].tolist()
        assert positions == sorted(set(positions))  # in order, none twice
        sinks = list(range(min(config.sink_size, seen)))
        assert positions[: len(sinks)] == sinks
        recent = list(range(max(seen - config.recent_size, 0), seen))
        assert positions[len(positions) - len(recent) :] == recent


@st.composite
def settings_and_calls(draw):
    policy = draw(st.sampled_from(CONTESTS))
    cache_size = draw(st.integers(4, 24))
    sink = draw(st.integers(0, cache_size - 3))
    sizes = dict(cache_size=cache_size, sink_size=sink, seed=draw(st.integers(0, 3)))
    if policy != "streaming":
        sizes["recent_size"] = draw(st.integers(0, cache_size - sink - 2))
    if policy == "tree":
        sizes["scope"] = draw(st.integers(2, min(5, cache_size - sink - sizes["recent_size"])))
        sizes["scope_end"] = draw(st.sampled_from(["inside", "clipped"]))
        sizes["importance"] = draw(st.sampled_from(["attention", "late"]))
    if policy in ("tree", "tree_left"):
        sizes["stride"] = draw(st.sampled_from([1, 2]))
        sizes["max_height"] = draw(st.sampled_from([None, 1, 2, 3])) if sizes["stride"] == 1 else None
    config = TreeKVConfig(policy=policy, prefill="stream", block_size=1, trace=True, **sizes)
    calls = draw(st.lists(st.sampled_from([1, 1, 1, 2, 3, 7, 13, 30]), min_size=1, max_size=30))
    return config, calls


@given(settings_and_calls(), st.integers(0, 1000), st.booleans())
def test_ledger_equals_the_rule_on_lists(case, seed, ties):
    config, calls = case
    run_both(config, calls, seed, ties)


@given(
    st.sampled_from(CONTESTS),
    st.integers(1, 8),
    st.integers(3, 12),
    st.data(),
)
def test_prompt_selection_equals_the_rule_on_lists(policy, block, blocks, data):
    cache_size = block * blocks
    sink = data.draw(st.integers(0, (blocks - 2) * block))
    sizes = dict(cache_size=cache_size, sink_size=sink)
    if policy != "streaming":
        most = (blocks - -(-sink // block) - 2) * block
        sizes["recent_size"] = data.draw(st.integers(0, most))
    if policy == "tree":
        region = blocks - -(-sink // block) - -(-sizes["recent_size"] // block)
        sizes["scope"] = data.draw(st.integers(2, min(region, 4)))
        sizes["scope_end"] = data.draw(st.sampled_from(["inside", "clipped"]))
    if policy in ("tree", "tree_left"):
        sizes["stride"] = data.draw(st.sampled_from([1, 2]))
        sizes["max_height"] = data.draw(st.sampled_from([None, 1, 2, 3])) if sizes["stride"] == 1 else None
    config = TreeKVConfig(policy=policy, block_size=block, trace=True, **sizes)
    length = data.draw(st.integers(1, 6 * cache_size))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 100)))
    sums = torch.rand(1, HEADS, length, generator=generator)
    if data.draw(st.booleans()):
        sums = (sums * 3).round()  # many ties
    counts = torch.full((1, 1, length), 1.0)
    ledger = Ledger(config, rows=1, heads=HEADS)
    row = slice(0, 1)
    given_scores = (sums, counts) if ledger.policy.uses_attention else (None, None)
    selection = ledger.choose_prompt(ledger.prompt(row, length, *given_scores))
    kept = ledger.admit_prompt(row, length, selection, given_scores[0], 1)
    assert kept.shape[2] <= cache_size
    entries = [[Entry(p, w, 1, last=w) for p, w in enumerate(head)] for head in sums[0].tolist()]
    expected = select_prompt(config, entries)
    protected = {*range(min(sink, length)), *range(max(length - config.recent_size, 0), length)}
    assert all(protected <= set(head) for head in kept[0].tolist())
    for h in range(HEADS):
        assert kept[0, h].tolist() == expected[h]
        gone = sorted(set(range(length)) - set(expected[h]))
        evicted_at = ledger.trace.evicted_at[0, h]
        assert (evicted_at >= 0).nonzero().flatten().tolist() == gone
        assert all(evicted_at[gone] == length - 1)


@given(
    st.sampled_from(["snapkv", "pyramidkv"]),
    st.integers(1, 12),
    st.integers(1, 30),
    st.integers(1, 6),
    st.data(),
)
def test_prompt_only_policies_keep_what_their_papers_say(policy, window, more, layers, data):
    """SnapKV and PyramidKV against their transcription, on random scores; layer by layer, for budgets differ."""
    kernel, pooling = data.draw(st.sampled_from([1, 3, 5, 7])), data.draw(st.sampled_from(["average", "max"]))
    cache_size = window + more
    config = TreeKVConfig(
        policy=policy, cache_size=cache_size, window_size=window, kernel_size=kernel, pooling=pooling, trace=True
    )
    length, layer = data.draw(st.integers(1, 5 * cache_size)), data.draw(st.integers(0, layers - 1))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 100)))
    # Whole numbers of 1/1024, so that sums of neighbours are exact and ties are ties in both.
    steps = 4 if data.draw(st.booleans()) else 1024
    sums = torch.randint(0, steps, (1, HEADS, length), generator=generator) / 1024
    ledger = Ledger(config, rows=1, heads=HEADS, layer=layer, layers=layers)
    row = slice(0, 1)
    selection = ledger.choose_prompt(ledger.prompt(row, length, sums, torch.ones(1, 1, length)))
    kept = ledger.admit_prompt(row, length, selection, sums, 1)
    entries = [[Entry(p, w, 1, last=w) for p, w in enumerate(head)] for head in sums[0].tolist()]
    expected = select_prompt(config, entries, layer, layers)
    for h in range(HEADS):
        assert kept[0, h].tolist() == ledger.positions(row)[0, h].tolist() == expected[h]
        gone = sorted(set(range(length)) - set(expected[h]))
        assert (ledger.trace.evicted_at[0, h] >= 0).nonzero().flatten().tolist() == gone


def test_survivors_of_blocks_are_recorded():
    config = TreeKVConfig(cache_size=8, sink_size=2, recent_size=2, block_size=2, trace=True)
    sums = torch.tensor([9, 9, 1, 1, 2, 2, 3, 3, 0, 0, 5, 5, 6.0])[None, None]
    prompt = Prompt(13, sums, torch.ones(1, 1, 13), heads=1, layer=0, layers=1, device=sums.device)
    selection = get("tree").select_prompt(config, prompt)
    # Blocks: 0 is the sink; 1 (score 1) loses to 2 (score 2); then 3 (score 3) beats 4 (score 0); then, back at
    # the start of the region, 2 loses to 3; the short block 6 is recent.
    assert selection.kept[0, 0].tolist() == [0, 1, 6, 7, 10, 11, 12]
    assert selection.survivors[0, 0].tolist() == [-1, -1, 4, 5, 6, 7, -1, -1, 6, 7, -1, -1, -1]


def test_selected_rows_keep_their_state():
    """Rows in different states, reordered, continue as the rows they were."""
    config = TreeKVConfig(cache_size=8, sink_size=1, recent_size=2, prefill="none", block_size=1)
    generator = torch.Generator().manual_seed(0)

    def fill(ledger: Ledger, row: int, seed: int, length: int) -> None:
        weights = torch.rand(1, HEADS, length, generator=torch.Generator().manual_seed(seed))
        ledger.admit_prompt(slice(row, row + 1), length, None, weights, 1)

    def step(ledger: Ledger, row: int, weights: torch.Tensor) -> None:
        one = slice(row, row + 1)
        plan = ledger.plan_slots(one, 1)
        by_slot = weights.gather(2, (12 - plan.distance).clamp(max=12))  # the newest token is the last
        ledger.step(one, plan, by_slot.masked_fill(plan.distance < 0, 0.0))

    together = Ledger(config, 2, HEADS)
    for row, length in enumerate((12, 5)):
        fill(together, row, row, length)
    first = [torch.rand(1, HEADS, 13, generator=generator) for _ in range(9)]
    for weights in first:
        for row in range(2):
            step(together, row, weights)
    before = (together.cursor[:], together.capacity[:])
    assert before[0][0] != before[0][1] and before[1] == [12, 8]
    together.select(torch.tensor([1, 0]))
    assert (together.cursor[:], together.capacity[:]) == (before[0][::-1], before[1][::-1])
    then = [torch.rand(1, HEADS, 13, generator=generator) for _ in range(9)]
    for row, (origin, length) in enumerate(((1, 5), (0, 12))):
        alone = Ledger(config, 1, HEADS)
        fill(alone, 0, origin, length)
        for weights in first + then:
            step(alone, 0, weights)
        for weights in then:
            step(together, row, weights)
        one = slice(row, row + 1)
        assert torch.equal(together.positions(one), alone.positions(slice(0, 1)))


@pytest.mark.parametrize("seed", range(24))
def test_steps_are_the_same_with_and_without_distances(seed):
    draw, every = random.Random(seed), slice(0, 3)
    sizes = {"sink_size": 1, "recent_size": 2}
    config = TreeKVConfig(policy=draw.choice(["tree", "h2o", "tova"]), cache_size=8, trace=True, **sizes)
    without, with_them = ledgers = [Ledger(config, 3, HEADS) for _ in range(2)]
    for _ in range(60):
        what = draw.random()
        index = torch.tensor([draw.randrange(3) for _ in range(3)])
        q = draw.choice([1, 1, 1, 2])
        together = without.can_step_together(every, q) and draw.random() < 0.8
        unfinished = together and without.can_step_together(every, q, block=True) and draw.random() < 0.3
        for rows in [every] if together else [slice(row, row + 1) for row in range(3)]:
            weights = torch.rand(rows.stop - rows.start, HEADS, 64)
            for ledger in ledgers:
                plan = ledger.plan_slots(rows, q, distance=ledger is with_them)
                ledger.step(rows, plan, weights[..., : plan.used], unfinished=unfinished)
        for ledger in ledgers:
            if unfinished:
                ledger.roll_back(every)
                ledger.commit()
            elif what < 0.1:
                ledger.select(index)
            elif what < 0.2:
                ledger.copy_tensors()
        for name in ("held", "seen", "cursor", "used_slots"):
            assert getattr(without, name)[:] == getattr(with_them, name)[:]
        for name in ("order", "position", "sums"):
            assert torch.equal(getattr(without, name), getattr(with_them, name)), name
    assert torch.equal(without.trace.evicted_at, with_them.trace.evicted_at)
    assert torch.equal(without.trace.survivor, with_them.trace.survivor)


def test_tensors_are_freed_with_their_ledger():
    """On a device they should not wait for the garbage collector."""
    gc.disable()
    try:
        ledger = Ledger(TreeKVConfig(cache_size=8, sink_size=1, recent_size=2), 1, HEADS)
        ledger.step(slice(0, 1), ledger.plan_slots(slice(0, 1), 1), torch.ones(1, HEADS, 1))
        order = weakref.ref(ledger.order)
        del ledger
        assert order() is None
    finally:
        gc.enable()
