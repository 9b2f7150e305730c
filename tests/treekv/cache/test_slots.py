"""The storage of a layer: slots of keys and values, without knowing what they mean."""

from __future__ import annotations

import pytest
import torch

from treekv.cache.slots import Slots, Step

BATCH, HEADS, DIM = 2, 3, 4


def states(q: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(BATCH, HEADS, q, DIM, generator=generator) for _ in range(2))


@pytest.fixture
def slots() -> Slots:
    made = Slots(None, 1, 3)
    made.keys, made.values = (each[:, :, :0] for each in states(1))
    return made


def test_tokens_are_written_to_the_slots_that_are_named(slots):
    slots.reserve(4)
    key, value = states(2)
    places = torch.tensor([[3, 0], [1, 2], [0, 1]]).expand(BATCH, HEADS, 2)
    slots.write(slice(0, BATCH), places, key, value)
    for head, (first, second) in enumerate(places[0].tolist()):
        assert torch.equal(slots.keys[:, head, first], key[:, head, 0])
        assert torch.equal(slots.values[:, head, second], value[:, head, 1])
    other = states(1, seed=1)
    slots.write(slice(1, 2), torch.zeros(1, HEADS, 1, dtype=torch.long), *(t[1:] for t in other))
    assert torch.equal(slots.keys[1, :, 0], other[0][1, :, 0])
    assert torch.equal(slots.keys[0, 2, 0], key[0, 2, 0])  # the other row is unchanged


def test_kept_tokens_of_a_prompt_fill_the_first_slots(slots):
    key, value = states(5)
    slots.reserve(3)
    kept = torch.tensor([[0, 2, 4], [1, 2, 3], [0, 1, 4]]).expand(BATCH, HEADS, 3)
    slots.fill(slice(0, BATCH), kept, key, value)
    for head, positions in enumerate(kept[0].tolist()):
        assert torch.equal(slots.keys[:, head], key[:, head, positions])
        assert torch.equal(slots.values[:, head], value[:, head, positions])
    slots.reorder_slots(torch.tensor([2, 0]).expand(BATCH, HEADS, 2))
    assert torch.equal(slots.keys[:, 1], key[:, 1, [3, 1]]) and slots.slots == 2


def test_what_a_call_saw_is_repeated_only_where_others_follow(slots):
    slots.reserve(2)
    slots.keep_slots()
    slots.record(Step(None, None, 0, 0, None))
    assert slots.repeated() == (slots, [])
    slots.followed = True
    slots.keep_slots()
    before = slots.keys.clone()
    key, value = states(2)
    slots.write(slice(0, BATCH), torch.arange(2).expand(BATCH, HEADS, 2), key, value)
    slots.reorder_slots(torch.tensor([1]).expand(BATCH, HEADS, 1))
    twin, (step,) = slots.repeated()
    assert torch.equal(twin.keys, before) and step.rows is None and slots.slots == 1
    slots.forget_call()
    assert slots.repeated() == (slots, [])
