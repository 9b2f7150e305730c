"""A row that ended before others goes on in the batch: the padding that generation gave it is forgotten."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from tests import tiny
from treekv import TreeKVCache, TreeKVConfig, TreeKVError

ROOMY = TreeKVConfig(cache_size=64, block_size=4, sink_size=2, recent_size=16)
SMALL = TreeKVConfig(cache_size=16, block_size=2, sink_size=2, recent_size=6)
FIRST, LONGER, SECOND = tiny.tokens(12, seed=3), tiny.tokens(20, seed=4), tiny.tokens(7, batch=2, seed=5)


def two_turns(config, model=None, ended=2, steps=6):
    """Two rows answer with `steps` tokens, row 0 with `ended` and then padding, and get a second turn; its logits."""
    model = model or tiny.llama()
    cache = TreeKVCache(config, model.config)
    prompt = torch.cat([torch.nn.functional.pad(FIRST, (8, 0)), LONGER])
    mask = (prompt > 0).long()
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    model(prompt, attention_mask=mask, position_ids=positions, past_key_values=cache)
    said = tiny.tokens(steps, batch=2, seed=6)
    said[0, ended:] = 0
    for step in range(steps):  # as generation does, which takes all of its own tokens as real
        mask = torch.cat([mask, torch.ones(2, 1, dtype=torch.long)], 1)
        positions = (mask.cumsum(1) - 1)[:, -1:]
        model(said[:, step : step + 1], attention_mask=mask, position_ids=positions, past_key_values=cache)
    mask[0, 20 + ended :] = 0
    mask = torch.cat([mask, torch.ones_like(SECOND)], 1)
    positions = (mask.cumsum(1) - 1)[:, -SECOND.shape[1] :]
    logits = model(SECOND, attention_mask=mask, position_ids=positions, past_key_values=cache).logits
    return logits, cache, said


SETTINGS = [
    {},
    dict(positions="original"),
    dict(prefill="stream"),
    dict(budgets=((72, 56), (56, 72))),
    dict(policy="full"),
    dict(policy="h2o", sink_size=0, recent_size=16, block_size=1),
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_with_room_for_all_its_second_turn_is_that_of_the_row_alone(settings):
    config = (
        dataclasses.replace(ROOMY, **settings)
        if "policy" not in settings
        else TreeKVConfig(**{"cache_size": 64, **settings})
    )
    logits, cache, said = two_turns(config)
    plain = tiny.llama("sdpa")
    for row, (prompt, answer) in enumerate([(FIRST, said[:1, :2]), (LONGER, said[1:, :6])]):
        expected = plain(torch.cat([prompt, answer, SECOND[row : row + 1]], 1)).logits[0, -SECOND.shape[1] :]
        torch.testing.assert_close(logits[row], expected, atol=2e-4, rtol=1e-3)
        assert cache.tokens_seen(0, row) == prompt.shape[1] + answer.shape[1] + SECOND.shape[1]


def test_generate_goes_on_after_a_row_that_ended():
    model, settings = tiny.llama(), dict(max_new_tokens=8, do_sample=False, pad_token_id=0)
    plain = tiny.llama("sdpa")
    prompt = torch.cat([torch.nn.functional.pad(FIRST, (8, 0)), LONGER])
    alone, other = (plain.generate(ids, eos_token_id=-1, **settings)[0, ids.shape[1] :] for ids in (FIRST, LONGER))
    end = next(token for token in alone.tolist()[1:6] if token not in other.tolist())
    cache = TreeKVCache(ROOMY, model.config)
    out = model.generate(
        prompt, attention_mask=(prompt > 0).long(), past_key_values=cache, eos_token_id=end, **settings
    )
    assert out.shape[1] == 28 and int((out[0, 20:] > 0).sum()) < 7, "row 0 ended before row 1"
    ids = torch.cat([out, SECOND], 1)
    mask = (ids > 0).long()
    got = model.generate(ids, attention_mask=mask, past_key_values=cache, eos_token_id=-1, **settings)[
        :, ids.shape[1] :
    ]
    for row in range(2):
        expected = plain.generate(ids[row][mask[row] > 0][None], eos_token_id=-1, **settings)[0, int(mask[row].sum()) :]
        assert torch.equal(got[row], expected), row


@pytest.mark.parametrize("settings", [{}, dict(positions="original"), dict(prefill="stream")], ids=str)
def test_what_is_kept_is_what_the_row_read(settings):
    config = dataclasses.replace(SMALL, **settings)
    logits, cache, _ = two_turns(config)
    assert bool(logits.isfinite().all())
    for layer in range(2):
        kept = cache.kept_positions(layer)[0]
        assert kept.max() == 12 + 2 + 7 - 1 and kept.shape[1] <= 16
        assert bool((kept[:, -6:] == torch.arange(15, 21)).all()), "the recent tokens are those of the second turn"
        ordered = [p[p >= 0].tolist() for p in kept]
        assert all(p == sorted(set(p)) for p in ordered)


@pytest.mark.parametrize(
    "config",
    [
        dataclasses.replace(SMALL, trace=True),
        TreeKVConfig(policy="random", cache_size=16, sink_size=2, recent_size=1),
        TreeKVConfig(policy="rkv", cache_size=64),
    ],
    ids=["trace", "evicted", "queries"],
)
def test_what_cannot_be_forgotten_is_refused(config):
    """A trace and the last queries are of what was read, and padding that was evicted in some head cannot be told from
    the rest."""
    words = "says that 14 real tokens of row 0 came before the new ones, but the cache has read 24"
    with pytest.raises(TreeKVError, match=words):
        two_turns(config, steps=12)
