"""Capacities of their own for KV heads: against the transcription, head by head, and against rows alone."""

from __future__ import annotations

import copy

import pytest
import torch

from tests import tiny
from tests.treekv.cache.test_cache import TOLERANCE, compare
from treekv import TreeKVCache, TreeKVConfig, TreeKVError

TABLE = ((10, 14), (16, 8))
DECODING = [
    dict(sink_size=1, recent_size=3),
    dict(sink_size=1, recent_size=3, stride=2),
    dict(sink_size=1, recent_size="quarter", scope=3, scope_end="clipped"),
    dict(sink_size=1, recent_size=((2, 5), (7, 1)), importance="contribution"),
    dict(sink_size=1, recent_size=((2, 5), (7, 1)), importance="late"),
    dict(sink_size=1, recent_size=((2, 5), (7, 1)), importance="similarity"),
    dict(sink_size=0, recent_size=1, max_height=2),
    dict(policy="tree_left", sink_size=1, recent_size=3),
    dict(policy="streaming", sink_size=2),
    dict(policy="h2o"),
    dict(policy="random", seed=5, sink_size=1, recent_size=2),
]


@pytest.mark.parametrize("positions", ["rank", "original"])
@pytest.mark.parametrize("own", DECODING, ids=str)
def test_decoding_follows_the_rule_in_each_head(llama, own, positions):
    config = TreeKVConfig(
        cache_size=12, budgets=TABLE, positions=positions, prefill="stream", block_size=1, trace=True, **own
    )
    compare(llama, config, [1] * 40)


@pytest.mark.parametrize("own", DECODING, ids=str)
def test_blocks_follow_the_rule_in_each_head(llama, own):
    config = TreeKVConfig(cache_size=12, budgets=TABLE, prefill="stream", block_size=4, trace=True, **own)
    compare(llama, config, [27, 1, 1, 9, 1])


@pytest.mark.parametrize("length", [7, 12, 37])
@pytest.mark.parametrize("prefill", ["once", "none"])
def test_prompts_follow_the_rule_in_each_head(llama, prefill, length):
    late = dict(sink_size=0, recent_size=((2, 5), (7, 3)), importance="late")
    for own in (late, dict(sink_size=1, recent_size=3), dict(policy="random", seed=3), dict(policy="h2o")):
        config = TreeKVConfig(cache_size=12, budgets=TABLE, prefill=prefill, block_size=2, window_size=4, **own)
        compare(llama, config, [length] + [1] * 12)


def test_snapkv_takes_sizes_for_heads(llama):
    compare(llama, TreeKVConfig(policy="snapkv", cache_size=12, budgets=TABLE, window_size=4), [40, 1, 1])


@pytest.mark.parametrize("kv_heads", [1, 4])
def test_single_and_many_heads(kv_heads):
    table = tuple(tuple(8 + 2 * ((layer + head) % 3) for head in range(kv_heads)) for layer in range(2))
    total = sum(map(sum, table))
    table = ((table[0][0] + (-total) % (2 * kv_heads), *table[0][1:]), *table[1:])
    size = sum(map(sum, table)) // (2 * kv_heads)
    config = TreeKVConfig(cache_size=size, budgets=table, sink_size=1, recent_size=3, prefill="stream", block_size=1)
    compare(tiny.llama(kv_heads=kv_heads), config, [1] * 30)


def test_equal_sizes_are_what_no_budgets_are(llama):
    plain = TreeKVConfig(cache_size=12, sink_size=1, recent_size=3, prefill="stream", block_size=2)
    split = plain.replace(budgets=((12, 12), (12, 12)))
    ids = tiny.tokens(40, batch=3)
    one, other = TreeKVCache(plain, llama.config), TreeKVCache(split, llama.config)
    assert torch.allclose(
        llama(ids, past_key_values=one).logits, llama(ids, past_key_values=other).logits, atol=TOLERANCE
    )
    assert tiny.same_state(one, other) and one.nbytes == other.nbytes
    assert one.full_nbytes == other.full_nbytes and one.kept_tokens == other.kept_tokens == 12


def kept(cache: TreeKVCache, layer: int, row: int) -> list[list[int]]:
    return [[p for p in head if p >= 0] for head in cache.kept_positions(layer)[row].tolist()]


def config_of(prefill: str, **own) -> TreeKVConfig:
    return TreeKVConfig(cache_size=12, budgets=TABLE, sink_size=1, recent_size=3, prefill=prefill, block_size=2, **own)


@pytest.mark.parametrize("lengths", [(1, 2), (30, 9, 17), (12, 12, 3)])
@pytest.mark.parametrize("prefill", ["once", "stream", "none"])
def test_a_padded_row_gets_what_it_gets_alone(llama, lengths, prefill):
    longest = max(lengths)
    ids, mask = torch.zeros(len(lengths), longest, dtype=torch.long), torch.zeros(len(lengths), longest).long()
    for row, length in enumerate(lengths):
        ids[row, longest - length :] = tiny.tokens(length, seed=row)[0]
        mask[row, longest - length :] = 1
    cache = TreeKVCache(config_of(prefill), llama.config)
    together = llama.generate(
        ids, attention_mask=mask, past_key_values=cache, max_new_tokens=12, do_sample=False, pad_token_id=0
    )
    for row, length in enumerate(lengths):
        alone = TreeKVCache(config_of(prefill), llama.config)
        expected = llama.generate(
            ids[row : row + 1, longest - length :], past_key_values=alone, max_new_tokens=12, do_sample=False,
            pad_token_id=0,
        )  # fmt: skip
        new = expected.shape[1] - length  # fewer than the others, if the row ended early
        assert together[row, longest : longest + new].tolist() == expected[0, length:].tolist()
        if new < 12:
            continue
        for layer in range(2):
            assert kept(cache, layer, row) == kept(alone, layer, 0)


def test_beams_and_selected_rows_take_their_heads_along(llama):
    ids = tiny.tokens(20, batch=3)
    cache = TreeKVCache(config_of("stream", trace=True), llama.config)
    llama(ids, past_key_values=cache)
    before = [cache.kept_positions(layer) for layer in range(2)]
    rows = torch.tensor([2, 0, 2, 1])
    cache.reorder_cache(rows)
    for layer in range(2):
        assert torch.equal(cache.kept_positions(layer), before[layer][rows])
        assert cache.trace[layer].evicted_at.shape == (4, 2, 20)
        survivor = cache.trace[layer].survivor
        assert torch.equal(survivor[0], survivor[2]) and (survivor >= 0).any()
        assert cache.trace[layer].nbytes > 0
    logits = llama(torch.tensor([[5]] * 4), past_key_values=cache).logits
    assert torch.equal(logits[0], logits[2])
    cache.batch_repeat_interleave(2)
    assert cache.kept_positions(0).shape[:2] == (8, 2)
    cache.batch_select_indices(torch.tensor([7]))
    assert cache.tokens_seen(0) == 21 and cache.get_seq_length() == 21
    beams = TreeKVCache(config_of("stream"), llama.config)
    assert llama.generate(
        ids[:1], past_key_values=beams, num_beams=3, max_new_tokens=8, do_sample=False, pad_token_id=0
    ).shape == (1, 28)


def test_bytes_are_the_sum_of_the_heads(llama):
    cache = TreeKVCache(config_of("stream"), llama.config)
    llama(tiny.tokens(40), past_key_values=cache)
    for _ in range(20):
        llama(torch.tensor([[3]]), past_key_values=cache)
    per_slot = 2 * 8 * 4  # a key and a value of 8 channels
    assert cache.nbytes == (sum(map(sum, TABLE)) + 4) * per_slot  # one slot a head for the new token
    positions = cache.kept_positions(0)
    assert positions.shape == (1, 2, 14) and (positions[0, 0] < 0).sum() == 4 and (positions[0, 1] >= 0).all()
    assert cache.kept_tokens == 16
    cache.reset()
    assert cache.nbytes == 0 and cache.kept_positions(0).numel() == 0


def test_copies_go_on_alone(llama):
    cache = TreeKVCache(config_of("once"), llama.config)
    llama(tiny.tokens(40), past_key_values=cache)
    other = copy.deepcopy(cache)
    llama(torch.tensor([[3]]), past_key_values=other)
    assert cache.get_seq_length() == 40 and other.get_seq_length() == 41
    assert torch.equal(other.kept_positions(0)[0, 1], cache.kept_positions(0)[0, 1]) is False


def test_half_precision(llama):
    config = config_of("stream")
    model = tiny.llama().to(torch.bfloat16)
    cache = TreeKVCache(config, model.config)
    assert model(tiny.tokens(30), past_key_values=cache).logits.isfinite().all()
    assert cache.kept_positions(1).shape == (1, 2, 16)


def test_tables_for_another_model_are_refused(llama):
    with pytest.raises(TreeKVError, match="2 compressed layers and 2 KV heads, got 2 layers and 3 heads"):
        TreeKVCache(TreeKVConfig(cache_size=12, budgets=[[12] * 3] * 2, sink_size=1), llama.config)
    with pytest.raises(TreeKVError, match="use per_head"):
        config_of("once").per_layer(2)
