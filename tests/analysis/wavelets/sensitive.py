"""Captures with gradients of a tiny model, for tests that run in inference_mode."""

from __future__ import annotations

import functools

import torch

import analysis
from tests import tiny


@functools.cache
def capture_with_gradients(tokens: int = 151, queries: int = 5, kv_heads: int = 2) -> analysis.Capture:
    """A capture of random tokens; the same object for the same arguments."""
    with torch.inference_mode(False):
        model = tiny.llama(kv_heads=kv_heads)
        for block in model.model.layers:
            block.self_attn.q_proj.weight.data.mul_(10)
        return analysis.capture(model, None, tiny.tokens(tokens, seed=3)[0], queries=queries, sensitivity=True)
