"""Layers that share a ledger get what each would get alone."""

from __future__ import annotations

import itertools

import pytest
import torch

from tests import tiny
from treekv import TreeKVCache, TreeKVConfig
from treekv.attention.interface import AttentionCall
from treekv.attention.softmax import Scoring
from treekv.cache.layer import TreeKVLayer
from treekv.cache.layer_group import LayerGroup

CONFIG = TreeKVConfig(cache_size=8, sink_size=1, recent_size=3, positions="original", prefill="stream", block_size=4)


def feed(layer: TreeKVLayer, states: list[torch.Tensor]) -> torch.Tensor:
    query, key, value = states
    layer.update(key, value)
    return layer.attend(AttentionCall(query, key, value, padding=None, scoring=Scoring(0.3), position_ids=None))


@pytest.mark.parametrize("heads", [[2, 2, 2, 2], [2, 2, 1, 1], [1, 2, 1, 2]], ids=str)
def test_layers_of_different_heads_keep_separate_ledgers(heads):
    """As layers on different devices do."""
    generator = torch.Generator().manual_seed(0)

    def made() -> list[TreeKVLayer]:
        return [TreeKVLayer(None, number, 4) for number in range(4)]

    together, alone = made(), made()
    LayerGroup(CONFIG, list(together))
    for layer in alone:
        LayerGroup(CONFIG, [layer])
    for q in (6, 1, 1, 1, 1, 5, 1, 1, 1):
        for number in range(4):
            states = [torch.randn(3, h, q, 6, generator=generator) for h in (2, heads[number], heads[number])]
            assert torch.allclose(feed(together[number], states), feed(alone[number], states), atol=1e-6)
    runs = 1 + sum(one != other for one, other in itertools.pairwise(heads))
    assert len({id(layer.owner) for layer in together}) == runs
    for one, other in zip(together, alone):
        (ours, own), (theirs, its) = ((layer.owner.ledger, layer.owner.ledger_rows(layer)) for layer in (one, other))
        assert torch.equal(ours.positions(own), theirs.positions(its))
        assert torch.equal(ours.counts(own)[..., :8].sort().values, theirs.counts(its)[..., :8].sort().values)


def test_layers_with_budgets_of_their_own_do_not_share(llama):
    cache = TreeKVCache(TreeKVConfig(cache_size=16, budgets=(8, 24), block_size=2, sink_size=2), llama.config)
    llama(tiny.tokens(40), past_key_values=cache)
    assert cache.layers[0].owner.ledger is not cache.layers[1].owner.ledger
    shared = TreeKVCache(TreeKVConfig(cache_size=16, block_size=4), llama.config)
    llama(tiny.tokens(40), past_key_values=shared)
    assert shared.layers[0].owner.ledger is shared.layers[1].owner.ledger


def test_an_interrupted_step_leaves_the_ledger_unchanged(llama):
    """Layers evict together after the last of them, so nothing is half evicted."""
    cache = TreeKVCache(TreeKVConfig(cache_size=16, block_size=4), llama.config)
    llama(tiny.tokens(40), past_key_values=cache)
    before = [cache.kept_positions(layer) for layer in range(2)]
    layer = cache.layers[0]
    states = [torch.randn(1, heads, 1, 8) for heads in (4, 2, 2)]
    query, key, value = states
    layer.update(key, value)
    layer.attend(AttentionCall(query, key, value, None, Scoring(0.3), torch.tensor([[40]])))
    for number in range(2):
        assert torch.equal(cache.kept_positions(number), before[number])
