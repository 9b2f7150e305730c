"""Gradients of a call pass through what the cache keeps during it."""

from __future__ import annotations

import pytest
import torch

from tests import tiny
from treekv import TreeKVCache, TreeKVConfig

SIZES = dict(cache_size=16, block_size=4, sink_size=2, recent_size=4)
LARGE = dict(cache_size=64, block_size=4, sink_size=2, recent_size=4)


@pytest.fixture(autouse=True)
def gradients(no_gradients):
    with torch.inference_mode(False), torch.enable_grad():
        yield


def loss_of(model, config, mask=None):
    ids = tiny.tokens(40, batch=2 if mask is not None else 1)
    cache = None if config is None else TreeKVCache(config, model.config)
    labels = ids if mask is None else ids.masked_fill(~mask, -100)
    return model(ids, labels=labels, past_key_values=cache, attention_mask=mask, use_cache=cache is not None).loss


def gradients_of(model, config, mask=None):
    loss = loss_of(model, config, mask)
    return torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad])


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        dict(prefill="once"),
        dict(prefill="stream"),
        dict(prefill="stream", positions="original"),
        dict(prefill="stream", policy="streaming", recent_size=62),
        dict(policy="full"),
        dict(prefill="stream", budgets=((72, 56), (56, 72))),
    ],
    ids=str,
)
def test_with_room_for_all_tokens_gradients_are_those_of_the_plain_model(settings, padded):
    mask = torch.ones(2, 40, dtype=torch.bool) if padded else None
    if padded:
        mask[1, :7] = False
    config = TreeKVConfig(**{**LARGE, **settings})
    got = gradients_of(tiny.llama(), config, mask)
    expected = gradients_of(tiny.llama("sdpa"), None, mask)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, atol=2e-4 * float(other.abs().max()), rtol=1e-3)


def test_queries_alone_may_be_trained():
    models = tiny.llama(), tiny.llama("sdpa")
    for model in models:
        model.requires_grad_(False)
        for block in model.model.layers:
            block.self_attn.q_proj.requires_grad_(True)
    got = gradients_of(models[0], TreeKVConfig(**LARGE, prefill="stream"))
    expected = gradients_of(models[1], None)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, atol=2e-4 * float(other.abs().max()), rtol=1e-3)


@pytest.mark.parametrize("positions", ["rank", "original"])
def test_with_evictions_the_gradient_is_the_slope_of_the_loss(positions):
    """A policy that does not look at attention evicts the same tokens however the parameters are moved."""
    config = TreeKVConfig(**{**SIZES, "recent_size": 14}, policy="streaming", prefill="stream", positions=positions)
    model = tiny.llama()
    weights = [block.self_attn.k_proj.weight for block in model.model.layers]
    weights += [block.self_attn.v_proj.weight for block in model.model.layers]
    along = torch.autograd.grad(loss_of(model, config), weights)
    length = sum(float(g.square().sum()) for g in along) ** 0.5
    assert length > 1e-2, "nothing depends on keys and values"

    def moved(step: float) -> float:
        with torch.no_grad():
            for weight, g in zip(weights, along, strict=True):
                weight += step / length * g
            found = float(loss_of(model, config))
            for weight, g in zip(weights, along, strict=True):
                weight -= step / length * g
        return found

    slope = (moved(1e-2) - moved(-1e-2)) / 2e-2
    assert slope == pytest.approx(length, rel=0.02)


def test_later_calls_leave_the_gradient_of_an_earlier_one_alone():
    model, ids = tiny.llama(), tiny.tokens(44)
    config = TreeKVConfig(**SIZES, prefill="stream")
    cache, alone = TreeKVCache(config, model.config), TreeKVCache(config, model.config)
    expected = torch.autograd.grad(model(ids[:, :40], past_key_values=alone).logits.sum(), model.parameters())
    first = model(ids[:, :40], past_key_values=cache).logits.sum()
    for t in range(40, 42):
        model(ids[:, t : t + 1], past_key_values=cache)
    with torch.no_grad():
        model(ids[:, 42:], past_key_values=cache)
    for one, other in zip(torch.autograd.grad(first, model.parameters()), expected, strict=True):
        assert torch.equal(one, other)
