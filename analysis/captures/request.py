"""A capture request: the text as token ids and what to capture of it, checked before the model runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from analysis import netcdf
from analysis.captures.forward_pass import captured_layers
from analysis.captures.rotary_record import rotary_attrs
from analysis.units import count
from treekv.attention import supported
from treekv.errors import TreeKVError
from treekv.files import check_text
from treekv.model_identity import model_fingerprint, model_name

LEAST_SEEN = 16  # tokens that an observed query sees at least; with fewer its spectrum means nothing

Text: TypeAlias = "str | Sequence[int] | Tensor"


@dataclass(frozen=True)
class CaptureRequest:
    """What to capture of one text, already checked; made by `CaptureRequest.of`.

    Attributes:
        ids: the tokens, [T].
        token_text: the text of each token, [T].
        queries: positions of the observed queries, ascending.
        layers: the model's numbers of the layers to capture, ascending.
        model: the model's name.
        attrs: attributes for the result: max_tokens, queries, model_fingerprint, rotary frequencies, library versions.
        sensitivity: whether the gradients of the loss are captured too.
    """

    ids: list[int]
    token_text: list[str]
    queries: list[int]
    layers: list[int]
    model: str
    attrs: dict[str, Any]
    sensitivity: bool = False

    @property
    def steps(self) -> int:
        """How many steps of progress the capture makes: one for each layer, and one for each layer's gradient."""
        return len(self.layers) * (2 if self.sensitivity else 1)

    @classmethod
    def of(
        cls,
        model: nn.Module,
        tokenizer: Any,
        text: Text,
        max_tokens: int = 2048,
        queries: int = 16,
        layers: Sequence[int] | None = None,
        sensitivity: bool = False,
    ) -> CaptureRequest:
        """Check the arguments of `capture` and resolve them; raises TreeKVError as `capture` does."""
        chosen = chosen_layers(model.config, layers)
        if queries < 1:
            raise TreeKVError(f"queries is {queries}; observe at least 1 token")
        least = queries + LEAST_SEEN
        if max_tokens < least:
            raise TreeKVError(f"max_tokens is {max_tokens}; {queries} queries need at least {least} tokens")
        ids = _token_ids(tokenizer, text)[:max_tokens]
        if len(ids) < least:
            raise TreeKVError(
                f"the text has {count(len(ids), 'token')}; {queries} observed queries that each see {LEAST_SEEN} "
                f"others need at least {least}"
            )
        check_ids(ids, model.config)
        attrs = {
            "max_tokens": max_tokens,
            "queries": queries,
            "model_fingerprint": model_fingerprint(model),
            **rotary_attrs(model.config),
            **netcdf.versions(),
        }
        observed = list(range(len(ids) - queries, len(ids)))
        return cls(ids, _token_text(tokenizer, ids), observed, chosen, model_name(model.config), attrs, sensitivity)

    def fingerprint(self, kind: str = "qkv", settings: Mapping[str, Any] | None = None) -> str:
        """Identifies this text with these settings, so that a file of it is recognised.

        `kind` and `settings` say what is kept of the capture: by default queries, keys and values. The content that
        is hashed must not change, or folders written by earlier versions cannot be resumed.
        """
        settings = {**(settings or {}), **({"sensitivity": True} if self.sensitivity else {})}
        content = [self.model, self.ids, self.queries, self.layers, kind, sorted(settings.items())]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def chosen_layers(config: Any, layers: Sequence[int] | None) -> list[int]:
    """The model's numbers of the layers to capture, ascending: all with full attention when `layers` is None.

    Raises TreeKVError for a layer that cannot be captured, or an empty list.
    """
    available = captured_layers(config)
    chosen = available if layers is None else sorted(set(layers))
    wrong = [layer for layer in chosen if layer not in available]
    if wrong or not chosen:
        raise TreeKVError(
            f"{'layer ' + str(wrong[0]) if wrong else 'an empty list of layers'} cannot be captured; "
            f"the full-attention layers are {available}"
        )
    return chosen


def _token_ids(tokenizer: Any, text: Text) -> list[int]:
    if not isinstance(text, str):
        return torch.as_tensor(text, dtype=torch.long).reshape(-1).tolist()
    if not text.strip():
        raise TreeKVError("the text is empty; give a text to capture")
    check_text(text, "the text")
    if tokenizer is None:
        raise TreeKVError("a text needs a tokenizer; pass one, or pass token ids instead of the text")
    return list(tokenizer(text, verbose=False)["input_ids"])


def _token_text(tokenizer: Any, ids: list[int]) -> list[str]:
    if tokenizer is None:
        return [str(i) for i in ids]
    # A netCDF string ends at a NUL character, so its visible symbol is stored instead.
    return [tokenizer.decode([i]).replace("\0", "\u2400") for i in ids]


def check_ids(ids: Sequence[int], config: Any) -> None:
    """Raise TreeKVError for token ids that the model does not have, or for more of them than it has positions or, if no
    layer has full attention, than its layers see."""
    config = config.get_text_config()
    low, high = min(ids), max(ids)
    if low < 0 or high >= config.vocab_size:
        raise TreeKVError(
            f"token id {low if low < 0 else high} is outside the model's vocabulary of {config.vocab_size}"
        )
    window = min(supported.windows_alone(config).values(), default=len(ids))
    if len(ids) > window:
        raise TreeKVError(
            f"{len(ids):,} tokens exceed the sliding window of {window:,} that every layer of this model has; use at "
            f"most {window:,} tokens"
        )
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and len(ids) > positions:
        raise TreeKVError(
            f"{len(ids):,} tokens exceed the {positions:,} positions that the model was trained with; use at most "
            f"{positions:,} tokens"
        )
