"""A prompt read in blocks, then one token at a time: the simulation against a real cache."""

from __future__ import annotations

import pytest

from analysis import capture, retention_from_cache, simulate
from tests import tiny
from tests.policies_table import BOUNDED
from treekv import TreeKVCache, TreeKVConfig


@pytest.mark.slow
@pytest.mark.parametrize("policy", BOUNDED)
@pytest.mark.parametrize("prompt", [40, 64, 77, 120])
@pytest.mark.parametrize("size, block", [(32, 8), (29, 2)])  # the second is full in the middle of a block
def test_what_follows_a_streamed_prompt_is_decoded_one_by_one(
    llama, policy: str, prompt: int, size: int, block: int
) -> None:
    config = TreeKVConfig(
        policy=policy, cache_size=size, prefill="stream", block_size=block, positions="original", trace=True
    )
    ids = tiny.tokens(120)
    cache = TreeKVCache(config, llama.config)
    llama(ids[:, :prompt], past_key_values=cache)
    for t in range(prompt, 120):
        llama(ids[:, t : t + 1], past_key_values=cache)
    real = retention_from_cache(cache)
    simulated = simulate(capture(llama, None, ids[0], queries=1), {policy: config}, prompt=prompt)
    # The first layer of a real run sees the same queries and keys as the capture.
    for field in ("evicted_at", "survivor"):
        assert (simulated[field].sel(layer=0).values == real[field].sel(layer=0).values).all()
