"""Streaming perplexity against one plain forward pass, and against a hand-made example."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import DynamicCache

from analysis.evaluation import StreamResult, stream_perplexity
from tests import tiny
from treekv import TreeKVCache, TreeKVConfig, TreeKVError

LENGTH = 70


@pytest.fixture(scope="module")
def ids() -> torch.Tensor:
    return tiny.tokens(LENGTH)[0]


def plain_nll(ids: torch.Tensor) -> torch.Tensor:
    logits = tiny.llama("eager")(ids[None]).logits[0]
    return -logits[:-1].log_softmax(-1).gather(1, ids[1:, None])[:, 0]


@pytest.mark.parametrize("chunk", [1, 16, 33, LENGTH, 1000])
@pytest.mark.parametrize("own", [True, False], ids=["treekv", "transformers"])
def test_a_full_cache_scores_like_one_plain_pass(llama, ids, chunk, own) -> None:
    config = TreeKVConfig(policy="full")
    cache = TreeKVCache(config, llama.config) if own else DynamicCache(config=llama.config)
    result = stream_perplexity(llama, ids, cache, chunk=chunk)
    expected = plain_nll(ids)
    torch.testing.assert_close(result.nll, expected, atol=1e-4, rtol=1e-4)
    assert result.tokens == LENGTH
    assert result.perplexity == pytest.approx(math.exp(expected.mean().item()), rel=1e-4)
    assert result.perplexity_from(50) == pytest.approx(math.exp(expected[49:].mean().item()), rel=1e-4)


def test_a_cache_that_evicts_scores_the_same_in_pieces_of_any_number_of_blocks(llama, ids) -> None:
    config = TreeKVConfig(cache_size=16, recent_size=4, prefill="stream", block_size=8)
    one, two = (stream_perplexity(llama, ids, TreeKVCache(config, llama.config), chunk=chunk) for chunk in (8, 24))
    torch.testing.assert_close(one.nll, two.nll, atol=1e-4, rtol=1e-4)
    full = plain_nll(ids)
    torch.testing.assert_close(one.nll[:15], full[:15], atol=1e-4, rtol=1e-4)  # nothing evicted yet
    assert (one.nll[24:] - full[24:]).abs().max() > 0.01


def test_cache_bytes_are_those_of_the_entries_held_and_of_what_the_last_block_evicted(llama, ids) -> None:
    entry = 2 * 2 * 2 * 8 * 4  # layers, keys and values, KV heads, head dim, bytes of a float32
    config = TreeKVConfig(policy="streaming", cache_size=16, prefill="stream", block_size=8)
    assert stream_perplexity(llama, ids, TreeKVCache(config, llama.config)).cache_bytes == (16 + LENGTH % 8) * entry
    assert stream_perplexity(llama, ids, DynamicCache(config=llama.config)).cache_bytes == LENGTH * entry


def test_progress_ends_at_the_last_token(llama, ids) -> None:
    calls: list[tuple[int, int]] = []
    cache = DynamicCache(config=llama.config)
    stream_perplexity(llama, ids, cache, chunk=30, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(30, LENGTH), (60, LENGTH), (LENGTH, LENGTH)]


def test_numbers_worked_out_on_paper() -> None:
    result = StreamResult(nll=torch.tensor([2.0, 4.0, 6.0]), seconds=2.0, cache_bytes=1)
    assert result.tokens == 4
    assert result.tokens_per_second == 2.0
    assert result.perplexity == pytest.approx(math.e**4)
    assert result.perplexity_from(2) == pytest.approx(math.e**5)


@pytest.mark.parametrize(
    ("tokens", "chunk", "words"),
    [
        ([5], 16, "at least 2 tokens, got 1"),
        ([], 16, "at least 2 tokens, got 0"),
        ([5, 6], 0, "at least 1 token, got 0"),
        ([5, tiny.VOCABULARY], 16, f"token id {tiny.VOCABULARY} is outside"),
        ([5, -1], 16, "token id -1 is outside"),
    ],
)
def test_impossible_input(llama, tokens, chunk, words) -> None:
    with pytest.raises(TreeKVError, match=words):
        stream_perplexity(llama, tokens, DynamicCache(config=llama.config), chunk=chunk)


def test_a_cache_in_use_is_refused(llama, ids) -> None:
    cache = DynamicCache(config=llama.config)
    stream_perplexity(llama, ids, cache)
    with pytest.raises(TreeKVError, match=f"already seen {LENGTH} tokens"):
        stream_perplexity(llama, ids, cache)


@pytest.mark.parametrize("position", [0, 4, -1])
def test_a_position_that_was_not_predicted(position) -> None:
    result = StreamResult(nll=torch.zeros(3), seconds=1.0, cache_bytes=1)
    with pytest.raises(TreeKVError, match=f"between 1 and 3, got {position}"):
        result.perplexity_from(position)


def test_a_batch_of_texts_is_scored_row_by_row(llama):
    ids = tiny.tokens(60, batch=3)
    config = TreeKVConfig(cache_size=12, sink_size=2, recent_size=4, prefill="stream", block_size=4)
    together = stream_perplexity(llama, ids, TreeKVCache(config, llama.config), chunk=8)
    assert together.nll.shape == (3, 59) and together.tokens == 60
    for row in range(3):
        alone = stream_perplexity(llama, ids[row], TreeKVCache(config, llama.config), chunk=8)
        assert torch.allclose(together.nll[row], alone.nll, atol=1e-4)
    assert together.perplexity_from(12) == pytest.approx(float(together.nll[:, 11:].mean().exp()), rel=1e-4)
    with pytest.raises(TreeKVError, match=r"\(1, 1, 60\)"):
        stream_perplexity(llama, ids[None, :1], TreeKVCache(config, llama.config))
