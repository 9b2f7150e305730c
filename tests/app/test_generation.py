"""Generation: what it reports, when it stops, and how long it has to be."""

from __future__ import annotations

import math

import pytest
import torch

from app.generation import LEAST_TEMPERATURE, check_temperature, generate, parting
from tests import tiny
from tests.app.conftest import words_tokenizer
from treekv import TreeKVConfig, TreeKVError


@pytest.fixture(scope="module")
def loaded() -> tuple:
    torch.manual_seed(0)
    return tiny.llama(), words_tokenizer()


def test_each_token_is_reported_and_counted(loaded: tuple) -> None:
    paces, texts = [], []
    ids = tiny.tokens(40)
    result, cache = generate(*loaded, ids, TreeKVConfig(cache_size=32), 6, texts.append, least=6, on_token=paces.append)
    assert [pace.tokens for pace in paces] == [1, 2, 3, 4, 5, 6]
    assert paces[0].tokens_per_second is None and paces[-1].tokens_per_second == result.tokens_per_second
    assert len(result.token_ids) == 6
    assert "".join(texts) == result.text
    assert (result.prompt_tokens, result.kept_tokens, result.cache_bytes) == (40, 32, cache.nbytes)
    assert result.to_dict()["new_tokens"] == 6


def test_least_holds_off_the_end_of_the_text(loaded: tuple) -> None:
    model, tokenizer = loaded
    ids = tiny.tokens(40)
    free, _ = generate(model, tokenizer, ids, TreeKVConfig(policy="full"), 4, least=4)
    model.generation_config.eos_token_id = free.token_ids[0]  # the first token ends the text
    try:
        short, _ = generate(model, tokenizer, ids, TreeKVConfig(policy="full"), 4)
        long, _ = generate(model, tokenizer, ids, TreeKVConfig(policy="full"), 4, least=4)
    finally:
        model.generation_config.eos_token_id = None
    assert short.token_ids == free.token_ids[:1]
    assert len(long.token_ids) == 4 and free.token_ids[0] not in long.token_ids[:3]


def test_an_interrupt_keeps_the_tokens_so_far(loaded: tuple) -> None:
    def stop(pace) -> None:
        if pace.tokens == 3:
            raise KeyboardInterrupt

    result, _ = generate(*loaded, tiny.tokens(40), TreeKVConfig(cache_size=32), 9, least=9, on_token=stop)
    assert result.stopped and len(result.token_ids) == 3


@pytest.mark.parametrize(
    ("one", "other", "place"), [([1, 2], [1, 2], None), ([1, 2], [1, 3], 1), ([1, 2], [1], 1), ([], [4], 0)]
)
def test_where_texts_diverge(one: list[int], other: list[int], place: int | None) -> None:
    assert parting(one, other) == place


@pytest.mark.parametrize("temperature", [-1.0, LEAST_TEMPERATURE / 2, math.inf, math.nan])
def test_temperatures_that_cannot_be_used_are_refused(temperature: float) -> None:
    with pytest.raises(TreeKVError, match="temperature must be 0"):
        check_temperature(temperature)
