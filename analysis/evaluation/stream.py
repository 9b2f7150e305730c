"""Perplexity of a text that streams through a cache a few tokens at a time."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from analysis.evaluation.unfinished import UnfinishedStream
from analysis.progress import Progress
from treekv import TreeKVCache
from treekv.errors import TreeKVError


@dataclass(frozen=True)
class StreamResult:
    """The result of `stream_perplexity`.

    Attributes:
        nll: float32 [tokens - 1], or [rows, tokens - 1] for several texts, on the CPU: negative log likelihood in
            nats; `nll[..., i]` is that of the token at position i + 1, predicted from the cache after position i.
            A prompt is not scored: then [tokens - prompt - 1], from position prompt + 1 on.
        seconds: wall time of the model's forward passes.
        cache_bytes: bytes of keys and values in the cache after the last token.
        prompt: number of first tokens that were read in one pass and not scored.
    """

    nll: Tensor
    seconds: float
    cache_bytes: int
    prompt: int = 0

    @property
    def tokens(self) -> int:
        """Tokens of one text."""
        return self.prompt + self.nll.shape[-1] + 1

    @property
    def tokens_per_second(self) -> float:
        """Tokens per second, over all texts together."""
        return self.tokens * (self.nll.numel() // self.nll.shape[-1]) / self.seconds

    @property
    def perplexity(self) -> float:
        """exp of the mean nll over all scored tokens."""
        return math.exp(self.nll.double().mean().item())

    def perplexity_from(self, position: int) -> float:
        """Perplexity over the tokens at `position` and later; from the cache size on, the cache was full.

        Raises:
            TreeKVError: no token was scored there.
        """
        if not self.prompt < position < self.tokens:
            raise TreeKVError(f"position must be between {self.prompt + 1} and {self.tokens - 1}, got {position}")
        return math.exp(self.nll[..., position - self.prompt - 1 :].double().mean().item())


def stream_perplexity(
    model: nn.Module,
    token_ids: Tensor | Sequence[int],
    cache: Cache,
    chunk: int = 16,
    progress: Progress | None = None,
    prompt: int = 0,
    unfinished: UnfinishedStream | None = None,
) -> StreamResult:
    """Feed a text to `model` through `cache` in pieces of `chunk` tokens and score every next token.

    Args:
        model: a causal language model of transformers.
        token_ids: [tokens], or [rows, tokens] for several texts of one length as a batch; at least two tokens.
        cache: an empty cache, a `TreeKVCache` or one of transformers' own. For a TreeKV cache to evict from the
            start it needs prefill="stream"; otherwise the first piece is its prompt.
        chunk: tokens per forward pass. The result of a TreeKV cache with prefill="stream" is the same for every
            multiple of its block size.
        progress: called as progress(tokens done, tokens) after each piece.
        prompt: number of first tokens that go through the model in one pass and are not scored.
        unfinished: keeps a long stream without a prompt every minute, and goes on from there, with a cache of its own
            in place of `cache`; for a `TreeKVCache`.

    Raises:
        TreeKVError: too few tokens, ids outside the vocabulary, a chunk below 1, or a cache that is not empty.
    """
    given = torch.as_tensor(token_ids, dtype=torch.long)
    if given.ndim not in (1, 2):
        raise TreeKVError(f"token_ids must be [tokens] or [rows, tokens], got the shape {tuple(given.shape)}")
    ids = given if given.ndim == 2 else given[None]
    length = ids.shape[1]
    _check(model, ids, cache, chunk, prompt)
    device = next(model.parameters()).device
    ids = ids.to(device)
    parts: list[Tensor] = []
    seconds = 0.0
    kept = None if unfinished is None or prompt else unfinished.load(model)
    if kept is not None:
        cache, earlier, seconds = kept
        parts.append(earlier)
    begin = prompt if kept is None else kept[1].shape[1]
    with torch.inference_mode():
        if prompt:  # without the output head: the logits of a long prompt take gigabytes
            start = time.perf_counter()
            base: Any = model.base_model
            base(input_ids=ids[:, :prompt], past_key_values=cache, use_cache=True)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds += time.perf_counter() - start
        for first in range(begin, length, chunk):
            piece = ids[:, first : first + chunk]
            start = time.perf_counter()
            logits = model(input_ids=piece, past_key_values=cache, use_cache=True).logits
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds += time.perf_counter() - start
            targets = ids[:, first + 1 : first + chunk + 1]
            predicted = logits[:, : targets.shape[1]].float().transpose(1, 2)
            parts.append(nn.functional.cross_entropy(predicted, targets, reduction="none").cpu())
            if unfinished is not None and not prompt and first + chunk < length and unfinished.is_due:
                parts = [torch.cat(parts, dim=1)]
                unfinished.keep(cast(TreeKVCache, cache), parts[0], seconds, model)
            if progress is not None:
                progress(first + piece.shape[1], length)
    if unfinished is not None:
        unfinished.remove()
    nll = torch.cat(parts, dim=1)
    nll = nll if given.ndim == 2 else nll[0]
    return StreamResult(nll=nll, seconds=seconds, cache_bytes=_bytes_in(cache), prompt=prompt)


def _check(model: nn.Module, ids: Tensor, cache: Cache, chunk: int, prompt: int) -> None:
    if ids.shape[1] < 2:
        raise TreeKVError(f"perplexity needs at least 2 tokens, got {ids.shape[1]}")
    if not 0 <= prompt <= ids.shape[1] - 2:
        raise TreeKVError(f"prompt must leave at least 2 of the {ids.shape[1]} tokens, got {prompt}")
    if chunk < 1:
        raise TreeKVError(f"chunk must be at least 1 token, got {chunk}")
    if cache.get_seq_length() > 0:
        raise TreeKVError(
            f"the cache has already seen {cache.get_seq_length()} tokens; give an empty one (cache.reset())"
        )
    config: Any = model.config
    vocabulary = config.get_text_config(decoder=True).vocab_size
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= vocabulary:
        wrong = low if low < 0 else high
        raise TreeKVError(f"token id {wrong} is outside the model's vocabulary of {vocabulary}")


def _bytes_in(cache: Any) -> int:
    if hasattr(cache, "nbytes"):
        return int(cache.nbytes)
    tensors = (getattr(layer, name, None) for layer in cache.layers for name in ("keys", "values"))
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None)
