"""One token of heads with capacities of their own, all at once, against part by part."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from tests import tiny
from tests.treekv.cache.test_cache import TOLERANCE, compare
from tests.treekv.cache.test_split_layer import DECODING
from treekv import TreeKVCache, TreeKVConfig
from treekv.cache import split_layer

TABLE = ((10, 12, 10, 8), (16, 8, 8, 8))  # the second layer has its heads in the order of its parts, the first not
CONFIG = TreeKVConfig(cache_size=12, sink_size=1, recent_size=3, prefill="stream", block_size=1, budgets=((9, 15),) * 2)


@pytest.fixture
def pooled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of each layer that attended at once, the number of its parts."""
    calls: list[int] = []
    real = split_layer.attend

    def attend(pool, new, plans, rotary):
        calls.append(len(plans))
        return real(pool, new, plans, rotary)

    monkeypatch.setattr(split_layer, "attend", attend)
    return calls


def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split_layer, "can_pool", lambda call: False)


@pytest.mark.parametrize("positions", ["rank", "original", "compressed"])
@pytest.mark.parametrize("own", DECODING, ids=str)
def test_it_is_what_the_parts_give(own, positions, pooled, monkeypatch) -> None:
    own = {name: value for name, value in own.items() if not isinstance(value, tuple)}
    config = TreeKVConfig(
        cache_size=10, budgets=TABLE, positions=positions, prefill="stream", block_size=1, trace=True, **own
    )
    model, ids = tiny.llama(kv_heads=4), tiny.tokens(48)
    cache = TreeKVCache(config, model.config)
    found = [model(token[None, None], past_key_values=cache).logits for token in ids[0]]
    assert set(pooled) == {2, 3} and len(pooled) > 48  # of 96 calls, once the largest head is full
    apart(monkeypatch)
    slow = TreeKVCache(config, model.config)
    expected = [model(token[None, None], past_key_values=slow).logits for token in ids[0]]
    assert torch.allclose(torch.cat(found), torch.cat(expected), atol=TOLERANCE)
    assert tiny.same_state(cache, slow) and cache.nbytes == slow.nbytes
    for layer in range(2):
        one, other = cache.trace[layer], slow.trace[layer]
        assert torch.equal(one.evicted_at, other.evicted_at) and torch.equal(one.survivor, other.survivor)


def test_blocks_prompts_and_turns_between_tokens(llama, pooled) -> None:
    for prefill, size in (("stream", 3), ("once", 1), ("none", 1)):
        config = CONFIG.replace(prefill=prefill, block_size=size, window_size=4)
        compare(llama, config, [30, 1, 1, 7, 1, 1, 1, 2, 1])
        assert pooled
        pooled.clear()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("positions", ["original", "rank"])
def test_half_precision(dtype, positions, pooled, monkeypatch) -> None:
    model, ids = tiny.llama().to(dtype), tiny.tokens(60)
    cache = TreeKVCache(CONFIG.replace(positions=positions), model.config)
    found = torch.cat([model(token[None, None], past_key_values=cache).logits for token in ids[0, :30]])
    assert pooled
    apart(monkeypatch)
    slow = TreeKVCache(CONFIG.replace(positions=positions), model.config)
    expected = torch.cat([model(token[None, None], past_key_values=slow).logits for token in ids[0, :30]])
    assert (found - expected).abs().mean() < 0.05 * expected.float().std()


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_copies_rows_and_files_go_on(llama, mode, tmp_path: Path, monkeypatch) -> None:
    ids = tiny.tokens(60)

    def read(cache: TreeKVCache, first: int, last: int) -> list[torch.Tensor]:
        with mode():
            every = [ids[:, at : at + 1].expand(cache_rows(cache), 1) for at in range(first, last)]
            return [llama(token, past_key_values=cache).logits[0, -1] for token in every]

    def cache_rows(cache: TreeKVCache) -> int:
        return cache.kept_positions(0).shape[0] if cache.get_seq_length() else 1

    def through(cache: TreeKVCache, name: str) -> list[torch.Tensor]:
        found = read(cache, 0, 25)
        twin = copy.deepcopy(cache)
        found += read(twin, 25, 30)  # does not touch the first
        found += read(cache, 25, 30)
        cache.save(tmp_path / name)
        again = TreeKVCache.load(tmp_path / name, llama.config)
        found += read(again, 30, 35)
        cache.batch_repeat_interleave(2)  # two rows attend part by part
        found += read(cache, 30, 33)
        cache.batch_select_indices(torch.tensor([1]))
        found += read(cache, 33, 40)
        cache.reset()
        return found + read(cache, 0, 20)

    one = through(TreeKVCache(CONFIG, llama.config), "pooled.treekv")
    apart(monkeypatch)
    other = through(TreeKVCache(CONFIG, llama.config), "apart.treekv")
    assert torch.allclose(torch.stack(one), torch.stack(other), atol=TOLERANCE)


def test_memory_is_that_of_the_parts(llama) -> None:
    cache = TreeKVCache(CONFIG, llama.config)
    for token in tiny.tokens(30)[0]:
        llama(token[None, None], past_key_values=cache)
    layer = cache.layers[0]
    assert layer._pool.keys.shape[0] == sum(part.batch * part.slots for part in layer.parts) == 10 + 16
    for part in layer.parts:
        assert part.keys.untyped_storage().data_ptr() == layer._pool.keys.untyped_storage().data_ptr()
    llama(tiny.tokens(3), past_key_values=cache)
    assert layer._pool is None


def test_many_heads_and_rows_attend_part_by_part(pooled) -> None:
    model = tiny.llama(kv_heads=16, hidden_size=64, num_attention_heads=16)
    budgets = ((9, 15) * 8,) * 2
    cache = TreeKVCache(CONFIG.replace(budgets=budgets), model.config)
    for token in tiny.tokens(30)[0]:
        model(token[None, None], past_key_values=cache)
    model = tiny.llama()
    cache = TreeKVCache(CONFIG, model.config)
    for token in tiny.tokens(30)[0]:
        model(token.expand(2, 1), past_key_values=cache)
    assert not pooled


@pytest.mark.parametrize("trained", ["q_proj", "k_proj", "v_proj"])
def test_what_is_trained_goes_part_by_part(trained, pooled) -> None:
    with torch.inference_mode(False), torch.enable_grad():
        model = tiny.llama().requires_grad_(False)
        weight = getattr(model.model.layers[0].self_attn, trained).weight
        cache = TreeKVCache(CONFIG, model.config)
        for token in tiny.tokens(20)[0]:
            model(token[None, None], past_key_values=cache)
        pooled.clear()
        weight.requires_grad_()
        model(tiny.tokens(1), past_key_values=cache).logits.sum().backward()
        assert weight.grad is not None and weight.grad.abs().sum() > 0
        assert not pooled  # the second layer's queries need a gradient too


@pytest.mark.parametrize("passes_positions", [True, False])
def test_the_history_may_have_padding(passes_positions, pooled, monkeypatch) -> None:
    """Some models do not pass their positions on; then they follow from the real tokens that were read."""
    real = split_layer.SplitLayer.attend
    if not passes_positions:
        monkeypatch.setattr(
            split_layer.SplitLayer, "attend", lambda layer, call: real(layer, call._replace(position_ids=None))
        )

    def logits() -> list[torch.Tensor]:
        model, ids = tiny.llama(), tiny.tokens(40)
        mask = torch.ones(1, 40, dtype=torch.long)
        mask[:, :4] = 0
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        cache = TreeKVCache(CONFIG, model.config)
        calls = [(0, 24), *((at, at + 1) for at in range(24, 40))]
        return [
            model(
                ids[:, first:last],
                attention_mask=mask[:, :last],
                position_ids=positions[:, first:last],
                past_key_values=cache,
            ).logits[0, -1]
            for first, last in calls
        ]

    found = logits()
    assert pooled
    apart(monkeypatch)
    assert torch.allclose(torch.stack(found), torch.stack(logits()), atol=TOLERANCE)
