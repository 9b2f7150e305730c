"""Prompts that are attended in full are read by the model once, whatever the settings that follow.

What a model computes of such a prompt does not depend on what is evicted after it. So its queries, keys and values are
kept, and further settings get them straight into their caches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from treekv import TreeKVCache, TreeKVConfig, policies
from treekv.attention.interface import AttentionSite, at_site, site_of

MOST_BYTES: Final = 4 * 2**30  # of one prompt's queries, keys and values; longer ones are read anew each time


@dataclass
class _Call:
    """What a layer was given."""

    key: Tensor
    value: Tensor
    query: Tensor | None = None  # None for a layer that is not compressed
    module: nn.Module | None = None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class _Reading:
    """A prompt, what each layer was given of it, and the logits [vocabulary] after it."""

    ids: tuple[int, ...]
    calls: list[_Call]
    logits: Tensor


class Prompts:
    """The prompt that was read last. Its model must not change while it is held."""

    def __init__(self) -> None:
        self._model: nn.Module | None = None
        self._held: _Reading | None = None

    def clear(self) -> None:
        """Give the memory back."""
        self._model = self._held = None

    def read(self, model: nn.Module, ids: Sequence[int], cache: TreeKVCache) -> Tensor:
        """Take a prompt into an empty cache; the logits [vocabulary] of what follows it.

        A prompt that is attended in full goes through the model only if it is another one than the last.
        """
        if not attended_in_full(cache.config):
            self.clear()
            return next_logits(model, ids, cache)
        prompt = tuple(ids)
        if self._held is None or self._model is not model or self._held.ids != prompt:
            self.clear()  # before the next one comes
            heard = _Heard(cache)
            logits = next_logits(model, ids, heard)
            if heard.calls is not None:
                self._model, self._held = model, _Reading(prompt, heard.calls, logits)
            return logits
        for layer, call in enumerate(self._held.calls):
            key, value = cache.update(call.key, call.value, layer)
            site = site_of(key)
            if site is not None and call.query is not None and call.module is not None:
                site.attend(call.module, call.query, key, value, **call.options)
        return self._held.logits


def next_logits(model: Any, ids: Sequence[int], cache: Cache) -> Tensor:
    """Feed tokens of one text; the logits [vocabulary] of what follows them."""
    given = torch.tensor([list(ids)], device=model.get_input_embeddings().weight.device)
    return model(input_ids=given, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[0, -1]


def attended_in_full(config: TreeKVConfig) -> bool:
    """Whether the model's pass over a prompt is that of the full cache."""
    return config.prefill != "stream" or not policies.get(config.policy).evicts_prompt


class _Heard(Cache):
    """Another cache, and what is said to it, as long as that is not too much."""

    def __init__(self, cache: TreeKVCache) -> None:
        super().__init__(layers=cache.layers)
        self.calls: list[_Call] | None = []
        self._cache = cache
        self._bytes = 0

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        key, value = self._cache.update(key_states, value_states, layer_idx, *args, **kwargs)
        site = site_of(key)
        if self.calls is None:
            return key, value
        call = _Call(key_states, value_states)
        self.calls.append(call)
        self._count(key_states, value_states)
        return (key if site is None else at_site(key, _Listener(site, call, self._count))), value

    def _count(self, *tensors: Tensor) -> None:
        self._bytes += sum(t.numel() * t.element_size() for t in tensors)
        if self._bytes > MOST_BYTES:
            self.calls = None


class _Listener:
    """An attention site that keeps what it was asked."""

    def __init__(self, site: AttentionSite, call: _Call, count: Callable[[Tensor], None]) -> None:
        self._site, self._call, self._count = site, call, count

    def attend(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        self._call.query, self._call.module, self._call.options = query, module, options
        self._count(query)
        return self._site.attend(module, query, key, value, **options)
