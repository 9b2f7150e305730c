"""A plan of slots, and its part for some rows."""

from __future__ import annotations

import torch

from treekv.cache.slot_plan import SlotPlan


def test_a_part_has_the_slots_and_distances_of_its_rows():
    slots, distance = torch.arange(6).view(3, 2, 1), torch.arange(24).view(3, 2, 4)
    plan = SlotPlan(slots, 4, distance, True, 64)
    part = plan.of(slice(1, 3))
    assert torch.equal(part.slots, slots[1:]) and torch.equal(part.distance, distance[1:])
    assert (part.used, part.all_used, part.padded_capacity) == (4, True, 64)
    assert plan._replace(distance=None).of(slice(0, 1)).distance is None
