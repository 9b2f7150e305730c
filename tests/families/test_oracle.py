"""Both oracles of rank positions, for a family of each way to rotate; `python -m tests.families.oracle` has all."""

from __future__ import annotations

import pytest

from tests.families import oracle
from treekv.attention.rotary_families import CONVENTIONS

FAMILIES = {
    "interleaved pairs, in a part of the head": ("glm", {}),
    "interleaved pairs, none in layers without a window": ("cohere2", {}),
    "backwards": ("nanochat", {}),
    "none in some layers, by a list": ("smollm3", {"no_rope_layers": [0]}),
    "another width and base in each type of layer": ("gemma4_text", {}),
    "scaled in one type of layer": ("olmo3", {}),
    "the half of a wider head": ("nemotron", {}),
    "a mixture of experts": ("qwen3_moe", {}),
}


@pytest.mark.parametrize("family, changes", FAMILIES.values(), ids=FAMILIES)
def test_kept_tokens_are_seen_as_if_they_were_alone(family, changes):
    assert oracle.kept_alone(family, steps=24, **changes) < oracle.CLOSE


@pytest.mark.parametrize("family", ["cohere2", "smollm3", "gemma4_text", "llama4"])
def test_a_cache_with_room_for_everything_generates_what_transformers_does(family):
    assert oracle.generates_the_same(family)


def test_every_way_to_rotate_is_tried_here():
    ways = {CONVENTIONS[family]._replace(layers="") for family, _ in FAMILIES.values()}
    assert ways == {convention._replace(layers="") for convention in CONVENTIONS.values()}
