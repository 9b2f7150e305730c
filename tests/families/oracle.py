"""Rank positions of every family against the plain model: `python -m tests.families.oracle`, or with some names.

In a model of one layer keys and values depend on nothing but the token and its position, so a query that attends to the
kept tokens at rank positions must give what the plain model gives for the kept tokens alone. And a cache that has room
for everything must generate what transformers generates, in models with two layers of each kind.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from transformers import PreTrainedModel

from tests import tiny
from tests.families import tiny_models
from treekv import TreeKVCache, TreeKVConfig, TreeKVError
from treekv.attention import supported

CLOSE = 2e-4  # of the largest logit
#: How families get one layer of full attention where "layer_types" does not say it.
ONE_LAYER: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [0]},
    "falcon_h1": {},
    "jamba": {"attn_layer_period": 1, "attn_layer_offset": 0},
    "nemotron_h": {"layers_block_type": ["full_attention"]},
    "zamba": {"layers_block_type": ["hybrid"]},
    "zamba2": {"layers_block_type": ["hybrid"]},
}


def one_layer(name: str, attention: str, **changes: Any) -> PreTrainedModel:
    """A tiny model with one layer of full attention."""
    fields = tiny_models.configuration(name).get_text_config(decoder=True)
    types = getattr(fields, "layer_types", None)
    own: dict[str, Any] = {"num_hidden_layers": 1}
    if types and name not in ONE_LAYER:
        own["layer_types"] = ["full_attention"] if "full_attention" in types else types[:1]
    elif hasattr(fields, "sliding_window"):
        own["sliding_window"] = None
    return tiny_models.build(name, attention, **(own | ONE_LAYER.get(name, {}) | changes))


def kept_alone(name: str, policy: str = "tova", steps: int = 40, **changes: Any) -> float:
    """The largest difference of logits, as a share of the largest, between a cache of 12 tokens and the plain model on
    the tokens that it keeps; `policy` keeps the same in all heads."""
    model, plain = one_layer(name, "treekv", **changes), one_layer(name, "eager", **changes)
    ids = tiny.tokens(steps)
    config = TreeKVConfig(policy=policy, cache_size=12, prefill="stream", block_size=1, positions="rank")
    cache = TreeKVCache(config, model.config)
    worst, before = 0.0, list[int]()
    with torch.no_grad():
        for step in range(steps):
            logits = model(ids[:, step : step + 1], past_key_values=cache).logits[0, -1]
            expected = plain(ids[:, [*before, step]], use_cache=False).logits[0, -1]
            worst = max(worst, float((logits - expected).abs().max() / expected.abs().max()))
            before = cache.kept_positions(0)[0, 0].tolist()
    assert len(before) == 12 and before != list(range(12))
    return worst


def generates_the_same(name: str, **changes: Any) -> bool:
    """Whether a cache with room for everything generates greedily what transformers does, at rank positions."""
    model, plain = (tiny_models.build(name, each, **changes) for each in ("treekv", "eager"))
    ids = tiny.tokens(20, batch=2)
    options = dict(max_new_tokens=20, do_sample=False, pad_token_id=0, eos_token_id=None)
    expected = plain.generate(ids, **options)
    for prefill in ("once", "stream"):
        cache = TreeKVCache(TreeKVConfig(cache_size=64, prefill=prefill, positions="rank"), model.config)
        if not torch.equal(model.generate(ids, past_key_values=cache, **options), expected):
            return False
    return True


def verdict(name: str) -> str:
    """What holds for a family, in words."""
    if name in tiny_models.NOT_BUILT:
        return f"not built: {tiny_models.NOT_BUILT[name]}"
    config = tiny_models.build(name, "treekv").config
    try:
        supported.full_attention_layers(config)
        positions = TreeKVCache(TreeKVConfig(cache_size=64), config).config.positions
    except TreeKVError as error:
        if "has full attention" not in str(error):
            return f"refused: {error}"
        positions = "rank"  # its usual layers all have a window, but there are models without
    if positions == "original":
        return "original positions"
    found = []
    try:
        found.append("same generation" if generates_the_same(name) else "ANOTHER GENERATION")
    except TreeKVError:
        found.append("all layers have a window")
    difference = kept_alone(name)
    found.append(
        f"kept tokens alone within {difference:.0e}"
        if difference <= CLOSE
        else f"KEPT TOKENS DIFFER by {difference:.0e}"
    )
    return "rank positions, " + ", ".join(found)


def main(names: list[str]) -> None:
    for name in names or tiny_models.NAMES:
        try:
            result = verdict(name)
        except Exception as error:  # of any kind: the rest is to be tried too
            result = f"FAILED: {type(error).__name__}: {str(error)[:200]}"
        print(f"{name}: {' '.join(result.split())}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
