"""A prompt that was attended to in full: its scores, and what the heads of a layer keep of it if they share it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from treekv.cache.attend import NewTokens, Observation, prompt_future, prompt_scores, remember_queries, store_prompt
from treekv.cache.contents import PromptContents
from treekv.cache.layer import TreeKVLayer
from treekv.cache.ledger import Ledger
from treekv.cache.slot_plan import padded_capacity
from treekv.policies.scores import Prompt, Selection
from treekv.policies.sharing import shared_slots


class ScoredPrompt(NamedTuple):
    """The prompt of some rows of a layer, all of one length: its tokens, what the policy sees of it, and how many of
    its queries scored it by weights, float32 [rows, kv_heads, length]."""

    rows: slice
    new: NewTokens
    prompt: Prompt
    sums: Tensor | None
    window: int


def score_prompt(
    layer: TreeKVLayer, ledger: Ledger, rows: slice, new: NewTokens, own: slice, weighting: Observation
) -> ScoredPrompt:
    """What the ledger's policy looks at; `own` are the rows of the ledger, `weighting` how weights count."""
    policy, config, length = ledger.policy, ledger.config, new.key.shape[2]
    sums, counts, future, contents, window = None, None, None, None, 0
    if policy.uses_attention:
        window = policy.scoring_queries(config, length)
        sums, counts = prompt_scores(new, window, weighting)
    ahead = policy.future_by(config)
    if ahead is not None and ledger.reduces_prompt(length):
        future = prompt_future(layer.future_rotary, new, ahead, config)
    if policy.reads_contents:
        contents = PromptContents(new, layer.rotary, policy.last_queries(config))
    return ScoredPrompt(rows, new, ledger.prompt(own, length, sums, counts, future, contents), sums, window)


@torch.compiler.disable(reason="how many tokens each head keeps decides the shapes of tensors")
def choose_shared(ledger: Ledger, prompts: Sequence[Prompt]) -> list[Selection | None]:
    """What each head of a layer keeps of a prompt that is longer than the cache, if they share it; `prompts` are how
    the heads see it, in order, each with one row."""
    policy, config, first = ledger.policy, ledger.config, prompts[0]
    sums, future = (
        None if own[0] is None else torch.cat([one for one in own if one is not None], dim=1)
        for own in ([prompt.sums for prompt in prompts], [prompt.future for prompt in prompts])
    )
    scores = policy.competing(config, first._replace(sums=sums, future=future))
    assert scores is not None  # the policy has the option
    slots = shared_slots(scores, policy.prompt_slots(config, first))[0].tolist()
    return [ledger.choose_prompt(own._replace(slots=n)) for own, n in zip(prompts, slots, strict=True)]


def keep(
    layer: TreeKVLayer,
    ledger: Ledger,
    own: slice,
    scored: ScoredPrompt,
    selection: Selection | None,
    last_queries: int,
) -> None:
    """Store the selected part of a prompt, or all, in a layer and in the rows `own` of the ledger, and its last queries
    for a policy that looks at so many of them."""
    kept = ledger.admit_prompt(own, scored.prompt.length, selection, scored.sums, scored.window)
    held, capacity = kept.shape[2], ledger.capacity[own][0]
    slots = padded_capacity(held, None) if capacity is None else padded_capacity(held + 1, capacity + 1)
    store_prompt(layer, scored.rows, scored.new, kept, slots)
    if last_queries:
        remember_queries(layer, scored.rows, scored.new, last_queries)
