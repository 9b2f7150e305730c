"""What a compressed model must give, computed by the plain model and its own eager attention.

Oracles take a model whose attention is "treekv" and the same one as transformers has it; they raise `AssertionError`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import CacheLayerMixin, DynamicCache
from transformers.masking_utils import eager_mask

from tests import tiny
from treekv import TreeKVCache, TreeKVConfig
from treekv.attention import supported

CAPACITY = 12
ORIGINAL = TreeKVConfig(cache_size=CAPACITY, sink_size=2, recent_size=4, block_size=2, positions="original")

# What layer `number` sees: bool [rows, kv_heads, T, T], or None for the model's own mask.
Visible = dict[int, Tensor]

_NAME = "eager_oracle"
_current: Callable[..., Any] | None = None


@torch.no_grad()
def generates_what_the_plain_model_generates(
    model: Any,
    plain: Any,
    prompt: int = 24,
    steps: int = 8,
    beams: Sequence[int] = (2,),
    prefills: Sequence[str] = ("once", "stream"),
    **settings: Any,
) -> None:
    """With room for everything: rows of different lengths in a batch, and beams."""
    ids = tiny.tokens(prompt, batch=2)
    mask = torch.ones_like(ids)
    mask[0, :5] = 0
    for count in beams:
        options = dict(attention_mask=mask, max_new_tokens=steps, do_sample=False, num_beams=count, pad_token_id=0)
        expected = plain.generate(ids, **options)[:, prompt:]
        for prefill in prefills:
            config = TreeKVConfig(cache_size=prompt + steps, prefill=prefill, **settings)
            cache = TreeKVCache(config, model.config)
            got = model.generate(ids, past_key_values=cache, **options)[:, prompt:]
            assert torch.equal(got, expected), f"{prefill}, {count} beams: {got.tolist()} is not {expected.tolist()}"


@torch.no_grad()
def steps_are_eager_attention_over_exactly_the_kept_tokens(
    model: Any, plain: Any, prompt: int = 24, steps: int = 6, streamed: int = 24
) -> None:
    """At original positions: a prompt with decoding steps, and a text of `streamed` tokens that is read one by one."""
    stream = ORIGINAL.replace(prefill="stream", block_size=1)
    for config, first, tokens in ((ORIGINAL, prompt, prompt + steps), (stream, 1, streamed)):
        ids = tiny.tokens(tokens, batch=2)
        logits, visible = run(model, ids, config, first)
        expected = masked_logits(plain, ids, visible, first)
        error = float((logits - expected).abs().max() / expected.abs().max())
        assert error < 1e-3, f"prefill {config.prefill!r}: logits differ by {error:.2g} of the largest"


def run(model: Any, ids: Tensor, config: TreeKVConfig, prompt: int) -> tuple[Tensor, Visible]:
    """Logits after a prompt and after each later token, and what the compressed layers held at each."""
    cache = TreeKVCache(config, model.config)
    rows, tokens = ids.shape
    layers = supported.full_attention_layers(model.config)
    visible: Visible = {}
    logits = [model(ids[:, :prompt], past_key_values=cache).logits[:, -1]]
    for step in range(prompt, tokens):
        for layer in layers:
            kept = cache.kept_positions(layer)
            if layer not in visible:
                visible[layer] = torch.ones(rows, kept.shape[1], tokens, tokens, dtype=torch.bool).tril()
            row = torch.zeros(rows, kept.shape[1], tokens, dtype=torch.bool)
            visible[layer][:, :, step] = row.scatter_(2, kept, True).index_fill_(2, torch.tensor(step), True)
        logits.append(model(ids[:, step : step + 1], past_key_values=cache).logits[:, -1])
    for layer in layers:
        assert cache.kept_positions(layer).shape[2] == CAPACITY
    return torch.stack(logits, 1), visible


def masked_logits(plain: Any, ids: Tensor, visible: Visible, prompt: int) -> Tensor:
    """The plain model with a cache of everything, read as in `run`, its layers masked after the prompt."""
    step = prompt - 1
    calls: Iterator[int] = iter(())

    def attend(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, **options: Any
    ) -> Any:
        own = sys.modules[type(module).__module__].eager_attention_forward
        seen = visible.get(next(calls))
        if seen is not None and step >= prompt:
            seen = seen[:, :, step : step + 1, : step + 1]
            seen = seen.repeat_interleave(query.shape[1] // seen.shape[1], 1)
            attention_mask = torch.zeros(seen.shape).masked_fill_(~seen, torch.finfo(torch.float32).min)
        return own(module, query, key, value, attention_mask=attention_mask, **options)

    cache, attending, logits = DynamicCache(config=plain.config), _attending(plain.config), []
    with attention(plain, attend):
        for first, last in [(0, prompt), *((at, at + 1) for at in range(prompt, ids.shape[1]))]:
            calls, step = iter(attending), last - 1
            logits.append(plain(ids[:, first:last], past_key_values=cache).logits[:, -1])
            assert next(calls, None) is None
    return torch.stack(logits, 1)


def _attending(config: Any) -> list[int]:
    """For each call of the attention function, in order, the layer to whose keys and values it attends."""
    config = config.get_text_config(decoder=True)
    layers = DynamicCache(config=config).layers
    modes = getattr(config, "kv_sharing_modes", None) or [None] * len(layers)
    stores = {config.layer_types[i]: i for i, mode in enumerate(modes) if mode == "store"}
    own = [stores[config.layer_types[i]] if mode == "reuse" else i for i, mode in enumerate(modes)]
    return [own[i] for i, layer in enumerate(layers) if isinstance(layer, CacheLayerMixin) or modes[i] == "reuse"]


@contextmanager
def attention(model: Any, function: Callable[..., Any]) -> Iterator[None]:
    global _current
    _current = function
    before = model.config._attn_implementation
    model.set_attn_implementation(_NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _called(*arguments: Any, **options: Any) -> Any:
    assert _current is not None
    return _current(*arguments, **options)


AttentionInterface.register(_NAME, _called)
AttentionMaskInterface.register(_NAME, eager_mask)
