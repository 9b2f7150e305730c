"""On the real model quality falls smoothly with the budget: a toy model cannot show a cliff."""

from __future__ import annotations

import itertools

import pytest
import torch

from analysis.evaluation import stream_perplexity
from analysis.evaluation.tasks import haystack
from treekv import TreeKVCache, TreeKVConfig

PROMPT, PREDICTED = 144, 32  # tokens
#: Tokens held of the prompt: all, one fewer, and less and less.
BUDGETS = (PROMPT + 40, PROMPT - 1, 112, 80)
STEP = 0.35  # nats a token, between two budgets; a cache that has lost its first token costs more (the last test)


@pytest.fixture(scope="module")
def words(smollm2) -> torch.Tensor:
    _, tokenizer = smollm2
    text = "\n".join(haystack.sentences(haystack.PYDOC)[:200])
    return torch.tensor(tokenizer(text, verbose=False)["input_ids"][200 : 200 + PROMPT + PREDICTED])


@pytest.mark.parametrize(
    "own",
    [
        {"policy": "tree"},
        {"policy": "tree", "positions": "original"},
        {"policy": "tree", "prefill": "stream"},
        {"policy": "tree", "prompt_score": "future", "after_prompt": "keep", "positions": "compressed"},
        {"policy": "streaming"},
        {"policy": "h2o", "variant": "paper"},
        {"policy": "tova", "variant": "paper"},
        {"policy": "snapkv"},
    ],
    ids=str,
)
def test_a_prompt_just_longer_than_the_cache(smollm2, words: torch.Tensor, own: dict) -> None:
    model, _ = smollm2
    losses = []
    for budget in BUDGETS:
        cache = TreeKVCache(TreeKVConfig(cache_size=budget, **own), model.config)
        losses.append(stream_perplexity(model, words, cache, chunk=16, prompt=PROMPT).nll.mean().item())
    assert all(later - earlier < STEP for earlier, later in itertools.pairwise(losses)), losses
    assert abs(losses[1] - losses[0]) < STEP / 3, f"one token fewer than the prompt: {losses}"


@pytest.mark.parametrize("policy", ["tree", "streaming", "h2o", "tova", "random", "lagkv"])
def test_the_first_evictions(smollm2, words: torch.Tensor, policy: str) -> None:
    """The eight tokens after the first eviction cost about what they cost the full cache."""
    model, _ = smollm2
    text = words[: PROMPT + 9]
    own = TreeKVConfig(policy="full"), TreeKVConfig(policy=policy, cache_size=PROMPT)
    full, compressed = (
        stream_perplexity(model, text, TreeKVCache(config, model.config), chunk=1, prompt=PROMPT).nll for config in own
    )
    assert (compressed - full).abs().mean().item() < STEP, (full, compressed)


def test_a_cliff_would_be_seen(smollm2, words: torch.Tensor) -> None:
    """Without the first token, to which most heads attend, the model is lost at once."""
    model, _ = smollm2
    losses = []
    for sinks in (4, 0):
        config = TreeKVConfig("streaming", 80, sink_size=sinks, positions="original")
        losses.append(stream_perplexity(model, words, TreeKVCache(config, model.config), 16, prompt=PROMPT).nll.mean())
    assert losses[1] - losses[0] > STEP, losses
