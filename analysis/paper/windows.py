"""Many windows of one length, cut from a few texts and spread evenly over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from analysis.captures.request import Text
from analysis.token_ids import encode, special_prefix
from treekv.errors import TreeKVError

MOST = 2000  # windows when no number is given: as many samples as the paper has


@dataclass(frozen=True)
class Windows:
    """Windows of one length that do not overlap.

    Attributes:
        ids: LongTensor [windows, tokens].
        text: the number of the text that each is from, [windows].
        start: where in its text each begins, counted in tokens without special ones, [windows].
        names: the names of the texts.
    """

    ids: Tensor
    text: list[int]
    start: list[int]
    names: list[str]


def cut_windows(
    tokenizer: Any, texts: str | Mapping[str, Text] | Sequence[Text], tokens: int, samples: int | None = None
) -> Windows:
    """Cut `samples` windows of `tokens` tokens from the texts, about as many from each, evenly spaced in each.

    The special tokens that the tokenizer puts before every text are at the start of each window of a string. Texts of
    token ids are cut as they are. `samples` None takes all windows there are, at most `MOST`.

    Raises:
        TreeKVError: no text, one without a tokenizer, one shorter than a window, or more samples than windows.
    """
    named = _named(texts)
    read = {}
    for name, text in named.items():
        if isinstance(text, str) and tokenizer is None:
            raise TreeKVError(f"the text {name!r} needs a tokenizer; pass one, or pass token ids instead of the text")
        before = special_prefix(tokenizer) if isinstance(text, str) else []
        ids = encode(tokenizer, text) if isinstance(text, str) else torch.as_tensor(text).reshape(-1).tolist()
        if len(before) + len(ids) < tokens:
            raise TreeKVError(
                f"the text {name!r} has {len(before) + len(ids)} tokens, fewer than a window of {tokens}; leave it "
                "out, or give smaller tokens"
            )
        read[name] = (before, ids)
    available = [len(ids) // (tokens - len(before)) for before, ids in read.values()]
    wanted = min(sum(available), MOST) if samples is None else samples
    if not 1 <= wanted <= sum(available):
        raise TreeKVError(
            f"samples is {wanted}; the texts have {sum(available)} windows of {tokens} tokens, so give 1 to "
            f"{sum(available)}, or more text"
        )
    rows, owner, starts = [], [], []
    for number, ((before, ids), there, share) in enumerate(
        zip(read.values(), available, _shares(available, wanted), strict=True)
    ):
        own = tokens - len(before)
        for index in range(share):
            start = (2 * index + 1) * there // (2 * share) * own
            rows.append(before + ids[start : start + own])
            owner.append(number)
            starts.append(start)
    return Windows(torch.tensor(rows, dtype=torch.long), owner, starts, list(read))


def _named(texts: str | Mapping[str, Text] | Sequence[Text]) -> dict[str, Text]:
    if isinstance(texts, str):
        texts = [texts]
    named = dict(texts) if isinstance(texts, Mapping) else {f"text-{i:03d}": text for i, text in enumerate(texts)}
    if not named:
        raise TreeKVError("there is no text to cut windows from; give at least one")
    for name, text in named.items():
        if isinstance(text, int) or (isinstance(text, Tensor) and text.ndim == 0):
            raise TreeKVError(f"the text {name!r} is a single number; give a list of texts, each a string or token ids")
    return named


def _shares(available: Sequence[int], wanted: int) -> list[int]:
    """How many windows of each text: as equal as what they have allows."""
    shares = [0] * len(available)
    while (rest := wanted - sum(shares)) > 0:
        unfilled = [i for i, there in enumerate(available) if shares[i] < there]
        each = max(1, rest // len(unfilled))
        for i in unfilled[:rest]:
            shares[i] += min(each, available[i] - shares[i])
    return shares
