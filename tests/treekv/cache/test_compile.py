"""Compiled decoding steps and prompts give what the model itself gives."""

from __future__ import annotations

import shutil

import pytest
import torch

from tests import tiny
from tests.needs import lacking
from tests.tiny import same_state
from treekv import TreeKVCache, TreeKVConfig
from treekv.attention import seen_distance

SMALL = TreeKVConfig(cache_size=12, sink_size=2, recent_size=4, block_size=2)


@pytest.mark.slow
def test_a_compiled_decode_step_gives_the_same_tokens():
    if shutil.which("g++") is None:
        lacking("torch.compile needs a C++ compiler, and there is no g++ on the PATH")
    model = tiny.llama()
    ids = tiny.tokens(30)

    def generate(step) -> list[int]:
        cache = TreeKVCache(SMALL, model.config)
        logits = model(ids, past_key_values=cache).logits[:, -1:]
        tokens = []
        for _ in range(40):
            tokens.append(logits.argmax(-1))
            logits = step(input_ids=tokens[-1], past_key_values=cache).logits
        return torch.cat(tokens, 1)[0].tolist()

    torch._dynamo.reset()
    # With the numbers that change left open from the start, so that the C++ compiler works once.
    assert generate(torch.compile(model, fullgraph=True, dynamic=True)) == generate(model)
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.parametrize(
    "policy, positions",
    [("tree", "rank"), ("tova", "original"), ("streaming", "original"), ("tree", "compressed")],
)
def test_compiled_and_plain_steps_may_follow_each_other(policy, positions, monkeypatch):
    """What a plain step keeps for the next one shares memory with the ledger."""
    monkeypatch.setattr(seen_distance, "NEAR", 6)
    model = tiny.llama()
    ids = tiny.tokens(30)
    config = TreeKVConfig(policy=policy, cache_size=12, sink_size=1, positions=positions, prefill="none")
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)

    def generate(steps) -> tuple[list[int], TreeKVCache]:
        cache = TreeKVCache(config, model.config)
        logits = model(ids[:, :12], past_key_values=cache).logits[:, -1:]
        tokens = []
        for step in steps:
            tokens.append(logits.argmax(-1))
            logits = step(input_ids=tokens[-1], past_key_values=cache).logits
        return torch.cat(tokens, 1)[0].tolist(), cache

    expected, plain = generate([model] * 20)
    got, cache = generate(([model] * 4 + [compiled] * 3) * 2 + [model] * 6)
    # One graph with fixed numbers, one with the numbers that change left open; it serves all steps to come.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2
    torch._dynamo.reset()
    assert got == expected
    for layer in range(2):
        assert torch.equal(cache.kept_positions(layer), plain.kept_positions(layer))


@pytest.mark.slow
def test_a_compiled_prompt_with_left_padding_is_that_of_the_model_itself():
    model = tiny.llama()
    ids = tiny.tokens(30, batch=2)
    mask = torch.ones_like(ids)
    mask[0, :7] = 0
    expected = TreeKVCache(SMALL, model.config)
    logits = model(ids, attention_mask=mask, past_key_values=expected).logits[:, -1]
    torch._dynamo.reset()
    cache = TreeKVCache(SMALL, model.config)
    compiled = torch.compile(model, backend="eager")
    got = compiled(ids, attention_mask=mask, past_key_values=cache).logits[:, -1]
    assert torch.allclose(got, logits, atol=1e-5) and same_state(cache, expected)
    for _ in range(3):
        mask = torch.cat([mask, mask.new_ones(2, 1)], 1)
        steps = [
            step(logits.argmax(-1)[:, None], attention_mask=mask, past_key_values=each).logits[:, -1]
            for step, each in ((model, expected), (compiled, cache))
        ]
        logits = steps[0]
        assert torch.allclose(steps[1], logits, atol=1e-5) and same_state(cache, expected)
    torch._dynamo.reset()
    whole = torch.compile(model, backend="eager", fullgraph=True)
    with pytest.raises(torch._dynamo.exc.Unsupported, match="compile the model without fullgraph=True"):
        whole(ids, attention_mask=mask, past_key_values=TreeKVCache(SMALL, model.config))
    torch._dynamo.reset()
