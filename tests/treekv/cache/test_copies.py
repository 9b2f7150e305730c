"""Copies of a cache continue as the original."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from tests import tiny
from treekv import TreeKVCache, TreeKVConfig


@pytest.mark.parametrize(
    "way", [copy.deepcopy, lambda cache: pickle.loads(pickle.dumps(cache))], ids=["copy", "pickle"]
)
@pytest.mark.parametrize("policy", ["tree", "h2o", "tova"])
def test_a_copy_continues_as_the_original_and_leaves_it_alone(llama, policy, way):
    config = TreeKVConfig(policy=policy, cache_size=12, sink_size=1, positions="original", prefill="none", trace=True)
    ids = tiny.tokens(60)
    expected, cache = TreeKVCache(config, llama.config), TreeKVCache(config, llama.config)
    for each in (expected, cache):
        for first, last in ((0, 12), *((t, t + 1) for t in range(12, 30))):
            llama(ids[:, first:last], past_key_values=each)
    copied = way(cache)
    for each in (expected, copied, cache):
        for t in range(30, 60):
            logits = llama(ids[:, t : t + 1], past_key_values=each).logits
        if each is expected:
            right = logits
        assert torch.equal(logits, right)
        for layer in range(2):
            assert torch.equal(each.kept_positions(layer), expected.kept_positions(layer))
            for field in ("evicted_at", "survivor"):
                assert torch.equal(getattr(each.trace[layer], field), getattr(expected.trace[layer], field))
