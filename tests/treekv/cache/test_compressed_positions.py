"""positions="compressed" in the cache against keys that are rotated one by one to where the rule says."""

from __future__ import annotations

import pytest
import torch

from tests import tiny
from tests.policies_table import settings_of
from tests.reference import positions
from tests.reference.llama import ReferenceLlama
from tests.treekv.cache.test_cache import compare
from treekv import TreeKVCache, TreeKVConfig, TreeKVError
from treekv.attention import seen_distance

COMPRESSED = TreeKVConfig(cache_size=12, sink_size=2, recent_size=4, positions="compressed", block_size=2)
TABLE = ((10, 14), (16, 8))


@pytest.fixture
def near(monkeypatch) -> None:
    """Distances are compressed from 6 tokens on, so that short texts show it."""
    monkeypatch.setattr(seen_distance, "NEAR", 6)
    monkeypatch.setattr(positions, "NEAR", 6)


@pytest.mark.parametrize(
    "settings",
    [*settings_of("decoding")[::2], dict(sink_size=1, recent_size=3, budgets=(8, 16)), dict(policy="full")],
    ids=str,
)
def test_decoding_follows_the_rule(llama, near, settings):
    config = TreeKVConfig(cache_size=12, positions="compressed", prefill="stream", block_size=1, **settings)
    compare(llama, config, [1] * 40)


@pytest.mark.parametrize("block_size", [2, 3, 8, 12])
@pytest.mark.parametrize("policy", ["tree", "streaming", "h2o", "tova", "random"])
def test_blocks_follow_the_rule(llama, near, policy, block_size):
    config = TreeKVConfig(policy, 12, positions="compressed", prefill="stream", block_size=block_size)
    compare(llama, config, [41, 1, 1, 1, 17, 1, 1])


@pytest.mark.parametrize(
    "settings",
    [
        dict(policy="tree", block_size=4),
        dict(policy="tree", block_size=4, prefill="none"),
        dict(policy="tova"),
        dict(policy="snapkv", window_size=5),
        dict(policy="pyramidkv", window_size=6),
    ],
    ids=str,
)
def test_a_prompt_is_read_at_its_true_positions_and_then_seen_compressed(llama, near, settings):
    config = TreeKVConfig(cache_size=16, positions="compressed", **settings)
    for length in (1, 15, 37):
        compare(llama, config, [length, *[1] * 8, 5, 1])


@pytest.mark.parametrize("block_size", [1, 4])
@pytest.mark.parametrize("own", [dict(recent_size=3), dict(recent_size="quarter"), dict(policy="h2o")], ids=str)
def test_heads_of_their_own_sizes_follow_the_rule(llama, near, own, block_size):
    own = {"cache_size": 12, "budgets": TABLE, "sink_size": 1, "prefill": "stream", "block_size": block_size, **own}
    compare(llama, TreeKVConfig(positions="compressed", **own), [27, 1, 1, 9, *[1] * 8])


@pytest.mark.parametrize("kv_heads", [1, 4])
def test_grouped_queries(near, kv_heads):
    compare(tiny.llama(kv_heads=kv_heads), COMPRESSED, [25] + [1] * 12)


def test_a_hundred_and_twenty_eight_tokens_are_near(llama):
    """With the rule's own number: two texts long enough to reach beyond it."""
    compare(llama, COMPRESSED.replace(prefill="stream", block_size=12), [300, 1, 1])
    compare(llama, COMPRESSED.replace(policy="streaming"), [140] + [1] * 8)


@pytest.mark.parametrize("prefill", ["once", "stream", "none"])
def test_while_all_tokens_are_near_they_are_seen_where_they_are(llama, prefill):
    ids = tiny.tokens(120)
    config = COMPRESSED.replace(prefill=prefill)
    one, other = (TreeKVCache(each, llama.config) for each in (config, config.replace(positions="original")))
    for part in (ids[:, :100], *ids[:, 100:].split(1, 1)):
        got, expected = (llama(part, past_key_values=cache).logits for cache in (one, other))
        assert torch.allclose(got, expected, atol=1e-4)
    assert tiny.same_state(one, other)


def test_a_million_tokens_later(llama):
    """The sinks and some tokens after them are a million tokens back, and the logits are still those of the rule."""
    config = TreeKVConfig("streaming", 12, positions="compressed", prefill="stream", block_size=1)
    ids, later = tiny.tokens(60), 1_000_000
    cache, reference = TreeKVCache(config, llama.config), ReferenceLlama(llama, config)
    for token in ids[0, :40]:
        llama(token.view(1, 1), past_key_values=cache)
        reference.feed([int(token)])
    ledger = cache.layers[0].owner.ledger
    ledger.position += later * (ledger.position >= 36)
    ledger.seen.add(slice(0, 2), later)
    for layer in reference.layers:
        for entry in [entry for head in layer.heads for entry in head if entry.position >= 36]:
            entry.position += later
            entry.count += 0
    reference.seen += later
    for n, token in enumerate(ids[0, 40:], 40):
        got = llama(token.view(1, 1), position_ids=torch.tensor([[n + later]]), past_key_values=cache).logits[0]
        assert torch.allclose(got, reference.feed([int(token)]), atol=1e-5)
        assert cache.kept_positions(1)[0].tolist() == reference.kept(1)
    assert int(cache.kept_positions(0).max()) == later + 59 and int(cache.kept_positions(0).min()) == 0


@pytest.mark.parametrize("prefill", ["once", "stream", "none"])
@pytest.mark.parametrize("budgets", [None, TABLE], ids=["equal", "by head"])
def test_a_padded_row_gets_what_it_gets_alone(llama, near, prefill, budgets):
    config = COMPRESSED.replace(prefill=prefill, budgets=budgets, block_size=2)
    lengths = [30, 17, 3]
    ids, mask = torch.zeros(3, 30, dtype=torch.long), torch.zeros(3, 30, dtype=torch.long)
    for row, length in enumerate(lengths):
        ids[row, 30 - length :], mask[row, 30 - length :] = tiny.tokens(length, seed=row)[0], 1
    options = dict(max_new_tokens=12, do_sample=False, pad_token_id=0, eos_token_id=-1)
    cache = TreeKVCache(config, llama.config)
    out = llama.generate(ids, attention_mask=mask, past_key_values=cache, **options)
    for row, length in enumerate(lengths):
        alone = TreeKVCache(config, llama.config)
        expected = llama.generate(ids[row : row + 1, 30 - length :], past_key_values=alone, **options)
        assert out[row, 30:].tolist() == expected[0, length:].tolist()


@pytest.mark.parametrize("pieces", [(6, 10, 20), (2, 2, 2, 30), (15, 3, 18)], ids=str)
def test_a_block_in_pieces_counts_from_its_first_token(llama, near, pieces):
    config = COMPRESSED.replace(prefill="stream", block_size=12, trace=True)
    ids = tiny.tokens(36, batch=2)
    whole, cache = TreeKVCache(config, llama.config), TreeKVCache(config, llama.config)
    expected = llama(ids, past_key_values=whole).logits
    got = torch.cat([llama(part, past_key_values=cache).logits for part in ids.split(pieces, 1)], 1)
    assert torch.allclose(got, expected, atol=1e-4) and tiny.same_state(cache, whole)
    token = torch.tensor([[3], [4]])
    got, expected = (llama(token, past_key_values=each).logits for each in (cache, whole))
    assert torch.allclose(got, expected, atol=1e-4)


def test_a_token_after_a_part_of_a_block_is_a_step_of_its_own(llama, near):
    compare(llama, COMPRESSED.replace(prefill="stream", block_size=12), [30, 1, 1, 1])


def test_beams_and_selected_rows(llama, near):
    config = COMPRESSED.replace(prefill="stream")
    ids = tiny.tokens(30, batch=3)
    cache = TreeKVCache(config, llama.config)
    llama(ids, past_key_values=cache)
    cache.reorder_cache(torch.tensor([2, 0, 2]))
    alone = TreeKVCache(config, llama.config)
    llama(ids[2:], past_key_values=alone)
    for token in (5, 6, 7):
        got = llama(torch.full((3, 1), token), past_key_values=cache).logits
        assert torch.allclose(got[0], got[2], atol=1e-4)
        assert torch.allclose(got[:1], llama(torch.tensor([[token]]), past_key_values=alone).logits, atol=1e-4)
    beams = TreeKVCache(config, llama.config)
    options = dict(num_beams=3, max_new_tokens=8, do_sample=False, pad_token_id=0)
    assert llama.generate(ids[:1], past_key_values=beams, **options).shape == (1, 38)


@pytest.mark.parametrize("dtype, tolerance", [(torch.bfloat16, 0.02), (torch.float16, 0.003)])
def test_half_precision(near, dtype, tolerance):
    """What is kept depends on nothing rounded here, so the logits can be compared, as a share of their size."""
    config = COMPRESSED.replace(policy="streaming", prefill="stream")
    ids = tiny.tokens(60)
    expected = ReferenceLlama(tiny.llama(), config).feed(ids[0].tolist())
    model = tiny.llama().to(dtype)
    got = model(ids, past_key_values=TreeKVCache(config, model.config)).logits[0]
    assert (got - expected).abs().mean() < tolerance * expected.abs().mean()


def test_a_text_of_any_length_is_read_past_the_models_window():
    model = tiny.llama(window=32)
    cache = TreeKVCache(COMPRESSED.replace(prefill="stream"), model.config)
    assert model.generate(tiny.tokens(200), past_key_values=cache, max_new_tokens=5, do_sample=False).shape == (1, 205)


def test_settings_come_back_from_a_file(tmp_path):
    COMPRESSED.save(tmp_path / "settings.json")
    assert TreeKVConfig.load(tmp_path / "settings.json") == COMPRESSED
    assert COMPRESSED.for_policy("h2o").positions == "compressed"


def test_models_whose_positions_cannot_be_changed_are_refused_with_the_settings_name():
    model = tiny.llama(rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0})
    with pytest.raises(TreeKVError, match=r"positions='compressed'.*'dynamic'.*positions='original'"):
        TreeKVCache(COMPRESSED, model.config)
