"""Read a prompt with the model once and reuse it for several settings.

What a model computes for a prompt that is attended in full does not depend on what is evicted afterwards. So its
queries, keys and values are kept and passed directly to the caches of further settings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, CacheLayerMixin

from treekv import TreeKVCache, TreeKVConfig, policies
from treekv.attention.interface import AttentionCall, AttentionHandler, attach_handler, handler_of
from treekv.cache.hybrid_layer import attention_of

MOST_BYTES: Final = 4 * 2**30  # of the queries, keys and values of one prompt; longer prompts are read every time


@dataclass
class _LayerCall:
    """The inputs of one layer's attention."""

    key: Tensor
    value: Tensor
    call: AttentionCall | None = None  # None for a layer that is not compressed


@dataclass
class _CachedPrompt:
    """A prompt, the inputs of each layer, and the logits [vocabulary] after it."""

    ids: tuple[int, ...]
    calls: list[_LayerCall]
    logits: Tensor


class PromptCache:
    """Keeps the prompt that was read last. The weights of its model must not change meanwhile."""

    def __init__(self) -> None:
        self._model: nn.Module | None = None
        self._cached: _CachedPrompt | None = None

    def clear(self) -> None:
        """Forget the prompt and free its memory."""
        self._model = self._cached = None

    def read(self, model: nn.Module, ids: Sequence[int], cache: TreeKVCache) -> Tensor:
        """Read a prompt into an empty cache and return the logits [vocabulary] after it.

        A prompt that is attended in full goes through the model only if it differs from the last one.
        """
        if not attended_in_full(cache.config):
            self.clear()
            return next_logits(model, ids, cache)
        prompt = tuple(ids)
        if self._cached is None or self._model is not model or self._cached.ids != prompt:
            self.clear()  # free the memory before the next prompt is read
            recording = _RecordingCache(cache)
            logits = next_logits(model, ids, recording)
            if recording.calls is not None:
                self._model, self._cached = model, _CachedPrompt(prompt, recording.calls, logits)
            return logits
        for layer, inputs in enumerate(self._cached.calls):
            key, value = cache.update(inputs.key, inputs.value, layer)
            handler = handler_of(key)
            if handler is not None and inputs.call is not None:
                handler.attend(inputs.call._replace(key=key, value=value))
        return self._cached.logits


def next_logits(model: Any, ids: Sequence[int], cache: Cache) -> Tensor:
    """Feed tokens of one text and return the logits [vocabulary] after them."""
    given = torch.tensor([list(ids)], device=model.get_input_embeddings().weight.device)
    return model(input_ids=given, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[0, -1]


def attended_in_full(config: TreeKVConfig) -> bool:
    """Whether the model's pass over a prompt equals that with a full cache."""
    return config.prefill != "stream" or not policies.get(config.policy).evicts_prompt


class _RecordingCache(Cache):
    """Wraps a cache and records the inputs of every layer, up to `MOST_BYTES`."""

    def __init__(self, cache: TreeKVCache) -> None:
        super().__init__(layers=cache.layers)
        # States beside keys and values would be missing when the calls are repeated, and the numbers of layers too.
        alone = all(isinstance(layer, CacheLayerMixin) and attention_of(layer) is layer for layer in cache.layers)
        self.calls: list[_LayerCall] | None = [] if alone else None
        self._cache = cache
        self._bytes = 0

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        key, value = self._cache.update(key_states, value_states, layer_idx, *args, **kwargs)
        handler = handler_of(key)
        if self.calls is None:
            return key, value
        inputs = _LayerCall(key_states, value_states)
        self.calls.append(inputs)
        self._count(key_states, value_states)
        return (key if handler is None else attach_handler(key, _RecordingHandler(handler, inputs, self._count))), value

    def _count(self, *tensors: Tensor) -> None:
        self._bytes += sum(t.numel() * t.element_size() for t in tensors)
        if self._bytes > MOST_BYTES:
            self.calls = None


class _RecordingHandler:
    """Wraps an attention handler and records its call."""

    def __init__(self, handler: AttentionHandler, inputs: _LayerCall, count: Callable[[Tensor], None]) -> None:
        self._handler, self._inputs, self._count = handler, inputs, count

    def attend(self, call: AttentionCall) -> Tensor:
        self._inputs.call = call
        self._count(call.query)
        return self._handler.attend(call)
