"""The cache inside a model against the slow transcription: logits and kept positions, token by token."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import DynamicCache

from tests import tiny
from tests.policies_table import BOUNDED, settings_of
from tests.reference.llama import ReferenceLlama
from treekv import TreeKVCache, TreeKVConfig, TreeKVError, policies
from treekv.attention import softmax as prefill

TOLERANCE = 1e-3


def compare(model, config: TreeKVConfig, calls: list[int], seed: int = 1) -> None:
    """Feed the same tokens to both in calls of the given lengths and compare after each call."""
    distinct = policies.of(config).reads_contents
    ids = tiny.distinct_tokens(sum(calls), seed) if distinct else tiny.tokens(sum(calls), seed=seed)
    reference, cache = ReferenceLlama(model, config), TreeKVCache(config, model.config)
    start = 0
    for length in calls:
        part = ids[:, start : start + length]
        expected, got = reference.feed(part[0].tolist()), model(part, past_key_values=cache).logits[0]
        assert torch.allclose(got, expected, atol=TOLERANCE), f"logits differ after {start + length} tokens"
        for layer in range(model.config.num_hidden_layers):
            kept = [[p for p in head if p >= 0] for head in cache.kept_positions(layer)[0].tolist()]
            assert kept == reference.kept(layer), start + length
        start += length
    if config.trace:
        compare_traces(cache, reference, start)


def compare_traces(cache: TreeKVCache, reference: ReferenceLlama, seen: int) -> None:
    for layer, held in enumerate(reference.layers):
        trace = cache.trace[layer]
        for h, evictions in enumerate(held.evictions):
            evicted = [-1] * seen
            survivor = [-1] * seen
            for eviction in evictions:
                evicted[eviction.loser] = eviction.step
                survivor[eviction.loser] = -1 if eviction.winner is None else eviction.winner
            assert trace.evicted_at[0, h].tolist() == evicted
            assert trace.survivor[0, h].tolist() == survivor


@pytest.mark.parametrize("positions", ["rank", "original"])
@pytest.mark.parametrize(
    "settings",
    [*settings_of("decoding"), dict(sink_size=1, recent_size=3, budgets=(8, 16)), dict(policy="full")],
    ids=str,
)
def test_decoding_follows_the_rule(llama, settings, positions):
    config = TreeKVConfig(cache_size=12, positions=positions, prefill="stream", block_size=1, trace=True, **settings)
    compare(llama, config, [1] * 50)


@pytest.mark.parametrize("block_size", [2, 3, 8, 12])
@pytest.mark.parametrize("settings", settings_of("blocks"), ids=str)
def test_stream_prefill_follows_the_rule(llama, settings, block_size):
    config = TreeKVConfig(cache_size=12, prefill="stream", block_size=block_size, trace=True, **settings)
    compare(llama, config, [41, 1, 1, 1, 17, 1, 1])


# A policy that evicts nothing from a prompt until the first token after it has come.
HELD_WHOLE = [
    dict(policy="openvino", sink_size=4, recent_size=4, interval=4),
    dict(policy="openvino", sink_size=2, recent_size=4, interval=2, aggregation="sum", window_size=3, positions="rank"),
    dict(policy="openvino", sink_size=2, recent_size=2, interval=2, prefill="none"),
]


@pytest.mark.slow
@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 31, 48, 53])
@pytest.mark.parametrize("settings", [*settings_of("prompts"), *HELD_WHOLE], ids=str)
def test_prompt_then_decoding_follows_the_rule(llama, settings, length):
    compare(llama, TreeKVConfig(cache_size=16, **settings), [length] + [1] * 12)


def test_a_second_turn_continues_with_the_decoding_rule(llama):
    config = TreeKVConfig(cache_size=16, sink_size=2, recent_size=4, block_size=4)
    compare(llama, config, [30, 1, 1, 1, 13, 1, 1])


@pytest.mark.parametrize("kv_heads", [1, 4])
def test_grouped_queries(kv_heads):
    config = TreeKVConfig(cache_size=12, sink_size=2, recent_size=4, block_size=2)
    compare(tiny.llama(kv_heads=kv_heads), config, [25] + [1] * 15)


def test_scores_are_window_sums_after_a_prompt(llama):
    """Section 4: S is the sum of the window's weights, C how many of its queries saw the token."""
    config = TreeKVConfig(cache_size=64, block_size=4, window_size=6)
    ids = tiny.tokens(20)
    cache = TreeKVCache(config, llama.config)
    llama(ids, past_key_values=cache)
    eager = tiny.llama("eager")
    weights = eager(ids, output_attentions=True).attentions[0][0]  # [heads, 20, 20]
    expected = weights.view(2, 2, 20, 20).mean(1)[:, -6:].sum(1)
    ledger = cache.layers[0].owner.ledger
    assert torch.allclose(ledger.sums[0, :, :20], expected, atol=1e-5)
    assert ledger.counts(slice(0, 1))[0, 0, :20].tolist() == [6] * 15 + [5, 4, 3, 2, 1]


@pytest.mark.parametrize("policy", ["full", "tree", "streaming"])
@pytest.mark.parametrize("prefill", ["once", "stream", "none"])
def test_capacity_beyond_the_text_equals_plain_transformers(llama, policy, prefill):
    ids = tiny.tokens(30, batch=2)
    plain = tiny.llama("sdpa").generate(ids, max_new_tokens=40, do_sample=False)
    cache = TreeKVCache(TreeKVConfig(policy=policy, cache_size=128, prefill=prefill), llama.config)
    assert torch.equal(llama.generate(ids, past_key_values=cache, max_new_tokens=40, do_sample=False), plain)


PADDED = [
    dict(cache_size=16, sink_size=2, recent_size=4, prefill="once", block_size=4),
    dict(cache_size=16, sink_size=2, recent_size=4, prefill="stream", block_size=4),
    dict(cache_size=16, sink_size=2, recent_size=4, prefill="none", block_size=4),
    dict(cache_size=64, sink_size=2, recent_size=20, importance="contribution"),
    dict(cache_size=16, sink_size=2, recent_size=6, importance="late", block_size=2),
    dict(cache_size=16, sink_size=2, recent_size=6, importance="late", prefill="stream", block_size=4),
    dict(cache_size=16, sink_size=2, recent_size=6, importance="similarity", prefill="stream", positions="original"),
    dict(cache_size=14, policy="cascade", sink_size=2, prefill="stream", block_size=4),
    dict(cache_size=48, policy="h2o"),
    dict(cache_size=48, policy="tova", positions="original"),
    dict(cache_size=16, policy="snapkv", window_size=4),
    dict(policy="full"),
]


@pytest.mark.parametrize("settings", PADDED, ids=str)
def test_left_padded_rows_get_what_they_get_alone(llama, settings):
    config = TreeKVConfig(trace=True, **settings)
    lengths = [40, 23, 9, 1]
    rows = [tiny.tokens(length, seed=length) for length in lengths]
    ids = torch.zeros(4, 40, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        ids[row, 40 - length :] = rows[row]
        mask[row, 40 - length :] = 1
    together = TreeKVCache(config, llama.config)
    out = llama.generate(
        ids,
        attention_mask=mask,
        past_key_values=together,
        max_new_tokens=30,
        do_sample=False,
        pad_token_id=0,
        eos_token_id=-1,
    )
    for row, alone_ids in enumerate(rows):
        alone = TreeKVCache(config, llama.config)
        expected = llama.generate(alone_ids, past_key_values=alone, max_new_tokens=30, do_sample=False, eos_token_id=-1)
        assert torch.equal(out[row, 40:], expected[0, lengths[row] :]), row
        kept = together.kept_positions(1)[row]
        seen = alone.trace[1].evicted_at.shape[2]
        assert torch.equal(kept[kept >= 0].view(2, -1), alone.kept_positions(1)[0])
        assert torch.equal(together.trace[1].evicted_at[row, :, :seen], alone.trace[1].evicted_at[0])
        assert torch.equal(together.trace[1].survivor[row, :, :seen], alone.trace[1].survivor[0])
        ours, theirs = together.layers[1], alone.layers[1]
        policy = ours.owner.ledger.policy
        if policy.uses_attention and policy.accumulates and policy.evicts_decoding:
            scores = []
            for layer, r in ((ours, row), (theirs, 0)):
                ledger, own = layer.owner.ledger, layer.owner.ledger_rows(layer, slice(r, r + 1))
                order = ledger.order[own][..., : ledger.held[own][0]]
                scores.append([t.gather(2, order) for t in (ledger.sums[own], ledger.counts(own))])
            assert torch.allclose(scores[0][0], scores[1][0], atol=1e-4)
            assert torch.equal(scores[0][1], scores[1][1])


# Keys of equal tokens are equal in the first layer unless they are rotated.
EXACT = [(name, "original" if policies.get(name).reads_contents else "rank") for name in BOUNDED]


@pytest.mark.parametrize(
    "own",
    [
        *(dict(policy=policy, positions=way) for policy, way in EXACT),
        dict(sink_size=1, recent_size=5, importance="late"),
        dict(policy="openvino", sink_size=2, recent_size=2, interval=2),
    ],
    ids=str,
)
@pytest.mark.parametrize("chunk", [3, 4, 7, 20, 49])
def test_stream_in_chunks_equals_one_pass(llama, chunk, own):
    """A block that a chunk ends in goes on with the next chunk; in between the cache is within its size."""
    config = TreeKVConfig(cache_size=12, prefill="stream", block_size=4, trace=True, **own)
    ids = tiny.tokens(51)
    once, chunked = TreeKVCache(config, llama.config), TreeKVCache(config, llama.config)
    expected = llama.generate(ids, past_key_values=once, max_new_tokens=10, do_sample=False)
    got = llama.generate(ids, past_key_values=chunked, max_new_tokens=10, do_sample=False, prefill_chunk_size=chunk)
    assert torch.equal(got, expected)
    for layer in range(2):
        assert torch.equal(once.kept_positions(layer), chunked.kept_positions(layer))
        assert torch.equal(once.trace[layer].evicted_at, chunked.trace[layer].evicted_at)
        assert torch.equal(once.trace[layer].survivor, chunked.trace[layer].survivor)
    assert once.nbytes == chunked.nbytes


@pytest.mark.slow
@settings(max_examples=40)
@example([5, 5, 8], 4, 4, 0)  # the first chunk brings one row one token; with a padding of 9 so does the second
@example([5, 5, 8], 4, 9, 0)
@given(st.lists(st.integers(2, 19), min_size=2, max_size=8), st.integers(1, 9), st.integers(0, 12), st.integers(0, 99))
def test_any_chunks_of_a_padded_batch_equal_one_pass(chunks, block, padding, seed):
    llama = tiny.llama()
    config = TreeKVConfig(cache_size=10, sink_size=2, recent_size=3, prefill="stream", block_size=block)
    length = sum(chunks)
    ids = tiny.tokens(length, batch=2, seed=seed)
    mask = torch.ones_like(ids)
    mask[0, : min(padding, length - 1)] = 0
    ends = [sum(chunks[: i + 1]) for i in range(len(chunks))]
    once, chunked = TreeKVCache(config, llama.config), TreeKVCache(config, llama.config)
    expected = llama(ids, attention_mask=mask, past_key_values=once).logits
    start = 0
    for end in ends:
        got = llama(ids[:, start:end], attention_mask=mask[:, :end], past_key_values=chunked).logits
        assert torch.allclose(got[1], expected[1, start:end], atol=1e-4)
        real = mask[0, start:end].bool()
        assert torch.allclose(got[0, real], expected[0, start:end][real], atol=1e-4)
        assert chunked.kept_tokens <= 10
        start = end
    for layer in range(2):
        assert torch.equal(once.kept_positions(layer), chunked.kept_positions(layer))


def test_blocks_give_back_the_room_they_took(llama):
    """After a whole block, and when decoding begins, a cache has room for its size and the token being read."""
    config = TreeKVConfig(cache_size=12, prefill="stream", block_size=8)
    cache = TreeKVCache(config, llama.config)
    per_slot = 2 * 2 * 2 * 8 * 4  # layers, k and v, heads, head_dim, bytes
    llama(tiny.tokens(40), past_key_values=cache)
    assert cache.nbytes == 13 * per_slot
    llama(tiny.tokens(5), past_key_values=cache)  # what its eviction frees stays, for the block may go on
    assert cache.nbytes == (12 + 5) * per_slot and cache.kept_tokens == 12
    llama(tiny.tokens(1), past_key_values=cache)
    assert cache.nbytes == 13 * per_slot
    assert cache.layers[0].owner.ledger.slots == 13


def test_the_books_take_twenty_bytes_a_slot_and_head(llama):
    """What docs/method.md says that nbytes does not count."""
    cache = TreeKVCache(TreeKVConfig(cache_size=64), llama.config)
    llama(tiny.tokens(128, batch=3), past_key_values=cache)
    llama(tiny.tokens(1, batch=3), past_key_values=cache)
    ledger = cache.layers[0].owner.ledger
    books = sum(t.nbytes for t in (ledger.order, ledger.position, ledger.sums))
    assert books == 20 * (64 + 1) * 2 * 3 * 2  # slots, heads, rows, layers


def test_a_call_of_one_token_is_a_decoding_step(llama):
    """Also at the end of a prompt that comes in chunks, as docs/method.md says."""
    config = TreeKVConfig(cache_size=12, prefill="stream", block_size=4)
    ids = tiny.tokens(21)
    chunked, by_hand = TreeKVCache(config, llama.config), TreeKVCache(config, llama.config)
    llama.generate(ids, past_key_values=chunked, max_new_tokens=1, do_sample=False, prefill_chunk_size=10)
    llama(ids[:, :20], past_key_values=by_hand)
    llama(ids[:, 20:], past_key_values=by_hand)
    assert torch.equal(chunked.kept_positions(1), by_hand.kept_positions(1))
    assert chunked.layers[0].owner.ledger.open_tokens(slice(0, 1)) == 0


@pytest.mark.parametrize("importance", ["attention", "late"])
def test_beams_carry_the_books_along(llama, importance):
    """A beam's cache is the cache that its own tokens would have made."""
    sizes = dict(cache_size=12, sink_size=2, recent_size=4, prefill="stream", block_size=1)
    config = TreeKVConfig(importance=importance, **sizes)
    ids = tiny.tokens(20)
    cache = TreeKVCache(config, llama.config)
    out = llama.generate(
        ids, past_key_values=cache, max_new_tokens=15, num_beams=3, num_return_sequences=3, do_sample=False
    )
    best = out[0, :-1]
    alone = TreeKVCache(config, llama.config)
    for token in best:
        llama(token.view(1, 1), past_key_values=alone)
    kept = [cache.kept_positions(1)[row] for row in range(3)]
    assert any(torch.equal(rows, alone.kept_positions(1)[0]) for rows in kept)


@pytest.mark.parametrize("importance", ["attention", "late"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_float32_scores(dtype, importance):
    model = tiny.llama().to(dtype)
    config = TreeKVConfig(cache_size=12, sink_size=2, recent_size=4, block_size=2, importance=importance)
    cache = TreeKVCache(config, model.config)
    ids = tiny.tokens(40)
    model(ids[:, :30], past_key_values=cache)
    for token in ids[0, 30:]:
        logits = model(token.view(1, 1), past_key_values=cache).logits
    assert logits.dtype == dtype and torch.isfinite(logits).all()
    layer = cache.layers[0]
    assert layer.keys.dtype == dtype and layer.owner.ledger.sums.dtype == torch.float32
    assert cache.kept_positions(0).shape == (1, 2, 12)
    # Layers, k and v, heads, tokens and the one that is being read, head_dim, bytes.
    assert cache.nbytes == 2 * 2 * 2 * (12 + 1) * 8 * 2


@pytest.mark.slow
def test_nothing_grows_and_nothing_drifts(llama):
    """After many times the window the cache has its size, and its keys are those of a fresh computation."""
    config = TreeKVConfig(cache_size=16, sink_size=4, recent_size=4, prefill="stream", block_size=1)
    cache = TreeKVCache(config, llama.config)
    layer, generator = cache.layers[0], torch.Generator().manual_seed(0)
    first_key = None
    for step in range(3000):
        llama(torch.randint(1, 97, (1, 1), generator=generator), past_key_values=cache)
        if step == 0:
            first_key = layer.keys[0, :, 0].clone()
            address = None
        if step == 100:
            address = layer.keys.data_ptr()
        assert len(cache.layers) == 2 and layer.owner.ledger.held[0] <= 16
    assert layer.keys.data_ptr() == address
    assert layer.keys.shape[2] == 17 and cache.get_seq_length() == 3000
    slot = layer.owner.ledger.order[0, 0, 0]
    assert torch.equal(layer.keys[0, :, slot], first_key)  # the first sink, untouched bit by bit


def test_reset_forgets_everything(llama):
    config = TreeKVConfig(cache_size=12, sink_size=2, recent_size=4, block_size=2, trace=True)
    cache = TreeKVCache(config, llama.config)
    ids = tiny.tokens(30)
    first = llama.generate(ids, past_key_values=cache, max_new_tokens=8, do_sample=False)
    cache.reset()
    assert cache.nbytes == 0 and cache.get_seq_length() == 0
    again = llama.generate(ids, past_key_values=cache, max_new_tokens=8, do_sample=False)
    assert torch.equal(first, again)


def test_wrong_attention_implementation_is_refused_before_any_work():
    model = tiny.llama("sdpa")
    with pytest.raises(TreeKVError, match=r"'sdpa'.*set_attn_implementation\('treekv'\)"):
        TreeKVCache(TreeKVConfig(cache_size=16), model.config)


def test_right_padding_is_refused(llama):
    cache = TreeKVCache(TreeKVConfig(cache_size=16), llama.config)
    with pytest.raises(TreeKVError, match="left"):
        llama(tiny.tokens(4), attention_mask=torch.tensor([[1, 1, 1, 0]]), past_key_values=cache)


def test_trace_must_be_asked_for(llama):
    with pytest.raises(TreeKVError, match="trace=True"):
        _ = TreeKVCache(TreeKVConfig(cache_size=16), llama.config).trace


def test_long_windows_and_long_chunks_go_through_in_parts(llama, monkeypatch):
    """The same scores and outputs, however few queries are treated at once."""
    ids, results = tiny.tokens(60), []
    for at_once in (256, 7):
        monkeypatch.setattr(prefill, "QUERIES_AT_ONCE", at_once)
        cache = TreeKVCache(TreeKVConfig(cache_size=64, block_size=4, window_size=50), llama.config)
        llama(ids, past_key_values=cache)
        full = TreeKVCache(TreeKVConfig(policy="full"), llama.config)
        llama(ids[:, :20], past_key_values=full)
        logits = llama(ids[:, 20:], past_key_values=full).logits
        ledger = cache.layers[1].owner.ledger
        results.append((ledger.sums[..., :60], ledger.counts(slice(0, 2))[..., :60], logits))
    for one, other in zip(*results):
        assert torch.allclose(one, other, atol=1e-4)


@pytest.mark.parametrize("read", [0, 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_attention_is_asked_for_that_a_gpu_computes_as_one_matrix(monkeypatch, read, dtype):
    """Grouped heads with a mask or in float32 have no kernel there."""
    asked = []
    original = torch.nn.functional.scaled_dot_product_attention

    def spy(query, key, value, **options):
        asked.append(options["enable_gqa"])
        assert not (options["enable_gqa"] and (options.get("attn_mask") is not None or dtype == torch.float32))
        assert options["enable_gqa"] or query.shape[1] == key.shape[1] == value.shape[1]
        return original(query, key, value, **options)

    query = torch.randn(2, 4, 30, 8).to(dtype)
    key, value = torch.randn(2, 2, 2, 30 + read, 8).to(dtype)
    expected = prefill.causal_attention(query, key, value, prefill.Scoring(0.3))
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    monkeypatch.setattr(torch.Tensor, "is_cpu", False)
    got = prefill.causal_attention(query, key, value, prefill.Scoring(0.3))
    assert asked == [dtype == torch.bfloat16 and not read]
    assert torch.allclose(got, expected, atol=1e-2 if dtype == torch.bfloat16 else 1e-5)


def test_bytes_of_a_full_cache_are_those_of_transformers(llama):
    ids = tiny.tokens(48, batch=3)
    plain = DynamicCache(config=llama.config)
    llama(ids, past_key_values=plain)
    expected = sum(layer.keys.nbytes + layer.values.nbytes for layer in plain.layers)
    for policy in ("tree", "full"):
        cache = TreeKVCache(TreeKVConfig(policy=policy, cache_size=16), llama.config)
        llama(ids, past_key_values=cache)
        assert cache.full_nbytes == expected
        assert cache.kept_tokens == (16 if policy == "tree" else 48)
