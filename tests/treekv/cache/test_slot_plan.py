"""A plan of slots, and its parts for some rows."""

from __future__ import annotations

import torch

from treekv.cache.slot_plan import SlotPlan


def test_parts_have_the_slots_and_distances_of_their_rows():
    slots, distance = torch.arange(6).view(3, 2, 1), torch.arange(24).view(3, 2, 4)
    plan = SlotPlan(slots, 4, distance, True, 64)
    first, second = plan.split([1, 2])
    assert torch.equal(first.slots, slots[:1]) and torch.equal(first.distance, distance[:1])
    assert torch.equal(second.slots, slots[1:]) and torch.equal(second.distance, distance[1:])
    assert (second.used, second.all_used, second.padded_capacity) == (4, True, 64)
    assert [part.distance for part in plan._replace(distance=None).split([2, 1])] == [None, None]
    masked = plan._replace(distance=distance - 8, all_used=False).with_mask(torch.float32).split([1, 2])
    assert masked[0].mask is not None and masked[0].mask.isinf().all() and masked[1].mask.eq(0).all()
