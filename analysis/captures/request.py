"""What is to be captured, checked before the model runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from analysis import netcdf
from analysis.captures.forward_pass import full_attention_layers
from analysis.model_identity import model_fingerprint, model_name
from analysis.wavelets.spectrum import SpectrumBuilder
from treekv.errors import TreeKVError

LEAST_SEEN = 16  # an observed query sees at least this many tokens, or its spectrum says nothing

KEEP = ("qkv", "spectrum")

Text: TypeAlias = "str | Sequence[int] | Tensor"


@dataclass(frozen=True)
class Job:
    """What is to be captured, checked.

    `fingerprint` tells whether a file holds this text with these settings, attrs["model_fingerprint"] whether it is of
    this model.
    """

    ids: list[int]
    token_text: list[str]
    queries: list[int]
    layers: list[int]
    keep: str
    settings: dict[str, Any]
    model: str
    attrs: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        content = [self.model, self.ids, self.queries, self.layers, self.keep, sorted(self.settings.items())]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def prepare(
    model: nn.Module,
    tokenizer: Any,
    text: Text,
    max_tokens: int = 2048,
    queries: int = 16,
    layers: Sequence[int] | None = None,
    keep: str = "qkv",
    settings: dict[str, Any] | None = None,
) -> Job:
    """Check everything that `capture` can refuse before the model runs."""
    settings = dict(settings or {})
    if keep not in KEEP:
        raise TreeKVError(f"keep is {keep!r}; give 'qkv' or 'spectrum'")
    if settings and keep != "spectrum":
        raise TreeKVError(f"{sorted(settings)[0]!r} is a setting of the spectrum; it needs keep='spectrum'")
    there = full_attention_layers(model.config)
    chosen = there if layers is None else sorted(set(layers))
    wrong = [layer for layer in chosen if layer not in there]
    if wrong or not chosen:
        raise TreeKVError(
            f"{'layer ' + str(wrong[0]) if wrong else 'an empty list of layers'} cannot be captured; "
            f"the full-attention layers are {there}"
        )
    if queries < 1:
        raise TreeKVError(f"queries is {queries}; observe at least 1 token")
    if max_tokens < queries + LEAST_SEEN:
        raise TreeKVError(f"max_tokens is {max_tokens}; {queries} queries need at least {queries + LEAST_SEEN} tokens")
    ids = _token_ids(tokenizer, text)[:max_tokens]
    if len(ids) < queries + LEAST_SEEN:
        raise TreeKVError(
            f"the text has {len(ids)} tokens; {queries} observed queries that each see {LEAST_SEEN} others "
            f"need at least {queries + LEAST_SEEN}"
        )
    _check_ids(ids, model.config)
    observed = list(range(len(ids) - queries, len(ids)))
    if keep == "spectrum":
        SpectrumBuilder(observed, **settings)  # refuses what cannot be
    attrs = {
        "max_tokens": max_tokens,
        "queries": queries,
        "model_fingerprint": model_fingerprint(model),
        **netcdf.versions(),
    }
    name = model_name(model.config)
    return Job(ids, _token_text(tokenizer, ids), observed, chosen, keep, settings, name, attrs)


def _token_ids(tokenizer: Any, text: str | Sequence[int] | Tensor) -> list[int]:
    if not isinstance(text, str):
        return torch.as_tensor(text, dtype=torch.long).reshape(-1).tolist()
    if not text.strip():
        raise TreeKVError("the text is empty; give a text to capture")
    if tokenizer is None:
        raise TreeKVError("a text needs a tokenizer; pass one, or pass token ids instead of the text")
    return list(tokenizer(text, verbose=False)["input_ids"])


def _token_text(tokenizer: Any, ids: list[int]) -> list[str]:
    if tokenizer is None:
        return [str(i) for i in ids]
    # netCDF text ends at a zero character, so it is shown as its picture.
    return [tokenizer.decode([i]).replace("\0", "\u2400") for i in ids]


def _check_ids(ids: list[int], config: Any) -> None:
    config = config.get_text_config()
    low, high = min(ids), max(ids)
    if low < 0 or high >= config.vocab_size:
        raise TreeKVError(
            f"token id {low if low < 0 else high} is outside the model's vocabulary of {config.vocab_size}"
        )
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and len(ids) > positions:
        raise TreeKVError(
            f"{len(ids)} tokens exceed the {positions} positions that the model was trained with; "
            f"set max_tokens to at most {positions}"
        )
