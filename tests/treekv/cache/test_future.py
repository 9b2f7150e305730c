"""What moved queries see of a prompt, against explicit loops."""

from __future__ import annotations

import pytest
import torch

from tests.reference import prompts
from treekv import TreeKVConfig
from treekv.attention.rotary import Rotary
from treekv.attention.softmax import Scoring
from treekv.cache import future
from treekv.cache.future import distance_of_queries, future_scores, places_ahead

DIM = 8
FREQUENCIES = torch.tensor([1.0, 0.3, 0.05, 0.01])


def model_order(x: torch.Tensor, positions: list[int], frequencies: torch.Tensor) -> torch.Tensor:
    """`x` [heads, n, dim] as a model would rotate it."""
    rotated = [
        [prompts.rotated(v.tolist(), p, frequencies.tolist()) for v, p in zip(head, positions)] for head in x.double()
    ]
    return torch.tensor(rotated)


def expected(query, key, scaling, frequencies, window, seed, every=8, squared=False) -> torch.Tensor:
    """The transcription for unrotated `query` [heads, T, dim] and `key` [kv_heads, T, dim]."""
    groups = query.unflatten(0, (key.shape[0], -1)).tolist()
    return torch.tensor(
        [
            prompts.future(own, keys, scaling, frequencies.tolist(), window, seed, every, squared)
            for own, keys in zip(groups, key.tolist())
        ]
    )


@pytest.mark.parametrize("length", [1, 2, 8, 9, 31])
@pytest.mark.parametrize("heads, kv_heads", [(4, 2), (3, 3), (4, 1)])
@pytest.mark.parametrize("rotated", [4, 2, 0], ids=["all", "part", "none"])
@pytest.mark.parametrize("every, squared", [(8, False), (1, True), (3, True)])
def test_scores_are_those_of_queries_after_the_prompt(monkeypatch, length, heads, kv_heads, rotated, every, squared):
    monkeypatch.setattr(future, "NUMBERS_AT_ONCE", 3 * kv_heads * length)  # three queries at a time
    torch.manual_seed(length)
    query, key = torch.randn(heads, length, DIM), torch.randn(kv_heads, length, DIM)
    frequencies, places = FREQUENCIES[:rotated], list(range(5, 5 + length))
    turned = [model_order(x, places, frequencies).float()[None] for x in (query, key)]
    rotary = Rotary(frequencies, DIM) if rotated else None
    got = future_scores(*turned, Scoring(0.7), torch.tensor([places]), rotary, 16, 3, every, squared=squared)
    assert got.shape == (1, kv_heads, length) and got.dtype == torch.float32
    assert torch.allclose(got[0], expected(query, key, 0.7, frequencies, 16, 3, every, squared), atol=1e-4)
    if not squared:
        assert got.sum(-1).allclose(torch.tensor(heads // kv_heads * len(range(0, length, 8)), dtype=torch.float32))


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("squared", [False, True])
def test_capped_logits_and_sinks_take_part(rows, squared, monkeypatch):
    monkeypatch.setattr(future, "NUMBERS_AT_ONCE", 3 * 2 * 20 * rows)
    torch.manual_seed(0)
    query, key = torch.randn(4, 20, DIM), torch.randn(2, 20, DIM)
    sinks = torch.tensor([[0.5, 1.5, -1.0, 3.0], [2.0, 0.0, 1.0, -2.0]])[:rows]
    got = future_scores(
        query.expand(rows, -1, -1, -1),
        key.expand(rows, -1, -1, -1),
        Scoring(0.7, softcap=1.2, sink=sinks),
        torch.arange(20)[None],
        None,
        16,
        3,
        8,
        squared=squared,
    )
    for row, own in enumerate(sinks.tolist()):
        for head in range(2):
            part = slice(2 * head, 2 * head + 2)
            options = dict(squared=squared, softcap=1.2, sinks=own[part])
            wanted = prompts.future(query[part].tolist(), key[head].tolist(), 0.7, [], 16, 3, **options)
            assert torch.allclose(got[row, head], torch.tensor(wanted), atol=1e-4)


def test_rows_of_other_positions_and_half_precision():
    torch.manual_seed(0)
    query, key = torch.randn(4, 40, DIM), torch.randn(2, 40, DIM)
    places = [list(range(40)), list(range(7, 47))]
    turned = [torch.stack([model_order(x, own, FREQUENCIES) for own in places]) for x in (query, key)]
    wanted = expected(query, key, 0.3, FREQUENCIES, 256, 0)
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.bfloat16, 0.05)):
        own = [x.to(dtype) for x in turned]
        got = future_scores(
            *own, Scoring(0.3), torch.tensor(places), Rotary(FREQUENCIES, DIM), 256, 0, 8, squared=False
        )
        assert got.dtype == torch.float32
        assert torch.allclose(got, wanted.expand_as(got), atol=tolerance)


def test_long_prompts_are_scored_by_a_sample():
    lengths = (1, 4096, 4097, 8192, 100_000)
    config = TreeKVConfig(cache_size=64, prompt_score="future")
    assert [distance_of_queries(config, n) for n in lengths] == [8, 8, 9, 16, 196]
    config = config.replace(future_reduction="energy")
    assert [distance_of_queries(config, n) for n in lengths] == [1, 16, 17, 32, 391]  # 256 for 64 slots
    config = config.replace(cache_size=1000)
    assert [distance_of_queries(config, n) for n in lengths] == [1, 2, 3, 4, 49]
    for own in (config, config.replace(future_reduction="sum"), config.replace(cache_size=20)):
        assert [distance_of_queries(own, n) for n in lengths] == [prompts.distance(own, n) for n in lengths]


def test_places_are_drawn_from_the_window_and_repeat():
    ahead = places_ahead(4000, 8, 256, 5)
    assert len(ahead) == 500 and ahead.min() >= 1 and ahead.max() <= 256 and len(set(ahead.tolist())) > 150
    assert torch.equal(ahead, places_ahead(4000, 8, 256, 5)) and not torch.equal(ahead, places_ahead(4000, 8, 256, 6))
    assert places_ahead(9, 8, 1, 0).tolist() == [1, 1]
    assert [9 - 1 + step for step in places_ahead(9, 8, 50, 2).tolist()] == [prompts.place(i, 9, 50, 2) for i in (0, 8)]
