"""Rows of a batch repeated, selected and reordered, and rows or layers that do not exist."""

from __future__ import annotations

import pytest
import torch

from tests import tiny
from tests.tiny import same_state
from treekv import TreeKVCache, TreeKVConfig, TreeKVError

SMALL = TreeKVConfig(cache_size=12, sink_size=2, recent_size=4, block_size=2)


def test_rows_can_be_repeated_selected_and_reordered(llama):
    cache = TreeKVCache(SMALL, llama.config)
    ids = tiny.tokens(25, batch=2)
    llama(ids, past_key_values=cache)
    before = cache.kept_positions(1)
    cache.batch_repeat_interleave(2)
    assert torch.equal(cache.kept_positions(1), before.repeat_interleave(2, 0))
    cache.reorder_cache(torch.tensor([3, 0, 0, 1]))
    assert torch.equal(cache.kept_positions(1), before[[1, 0, 0, 0]])
    cache.batch_select_indices(torch.tensor([0, 1]))
    expected = TreeKVCache(SMALL, llama.config)
    llama(ids[[1, 0]], past_key_values=expected)
    step = tiny.tokens(1, batch=2, seed=9)
    got = llama(step, past_key_values=cache).logits
    assert torch.allclose(got, llama(step, past_key_values=expected).logits, atol=1e-5)
    assert same_state(cache, expected)


@pytest.mark.parametrize("name", ["reorder_cache", "batch_select_indices"])
@pytest.mark.parametrize(
    "index, words",
    [
        ([1, 0], r"LongTensor \[rows\] of row numbers, got \[1, 0\]"),
        (torch.tensor([0.0, 1.0]), r"got torch.float32 \[2\]"),
        (torch.tensor([[0, 1]]), r"got torch.int64 \[1, 2\]"),
        (torch.tensor([0, 2]), "between 0 and 1, got 2"),
        (torch.tensor([-1, 0]), "between 0 and 1, got -1"),
        (torch.tensor([], dtype=torch.long), "between 0 and 1, got none"),
    ],
    ids=str,
)
def test_rows_that_are_not_there_are_refused(llama, name, index, words):
    cache = TreeKVCache(SMALL, llama.config)
    llama(tiny.tokens(25, batch=2), past_key_values=cache)
    before = cache.kept_positions(1)
    with pytest.raises(TreeKVError, match=words):
        getattr(cache, name)(index)
    with pytest.raises(TreeKVError, match="repeats must be a whole number of at least 1, got 0"):
        cache.batch_repeat_interleave(0)
    assert torch.equal(cache.kept_positions(1), before)


@pytest.mark.parametrize("layer", ["0", None, 1.0, 2, -1])
def test_layers_that_are_not_there_are_refused(llama, layer):
    with pytest.raises(TreeKVError, match=f"layer must be a whole number between 0 and 1, got {layer!r}"):
        TreeKVCache(SMALL, llama.config).kept_positions(layer)


def test_another_batch_size_is_refused(llama):
    cache = TreeKVCache(SMALL, llama.config)
    llama(tiny.tokens(20, batch=2), past_key_values=cache)
    with pytest.raises(TreeKVError, match=r"2 rows, but the input has 1.*reset\(\)"):
        llama(tiny.tokens(1), past_key_values=cache)


def test_an_empty_cache_has_no_rows():
    with pytest.raises(TreeKVError, match="has read nothing yet"):
        TreeKVCache(TreeKVConfig(cache_size=16), tiny.llama().config).tokens_seen(0)
