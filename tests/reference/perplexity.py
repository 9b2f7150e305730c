"""Perplexity with sliding windows as the paper tells it, one token at a time."""

from __future__ import annotations

import math
from collections.abc import Callable

NewReader = Callable[[], Callable[[int], list[float]]]


def sliding_losses(
    text: list[int], special: list[int], length: int, stride: int, new_reader: NewReader
) -> list[list[float]]:
    """The counted losses of each window, in nats.

    `new_reader()` starts with an empty cache and returns a function that reads a token and gives the log probabilities
    of the next one. Windows of `length` tokens, `special` ones first, start every `stride` tokens of `text`; the loss
    is counted over the last `stride` tokens of each window, and over all of the first.
    """
    counted = []
    start = 0
    while start + length - len(special) <= len(text):
        window = special + text[start : start + length - len(special)]
        read = new_reader()
        losses = []
        for position in range(length - 1):
            losses.append(-read(window[position])[window[position + 1]])
        counted.append(losses if start == 0 else losses[-stride:])
        start += stride
    return counted


def sliding_perplexity(*arguments) -> float:
    """exp of the mean over all counted tokens; arguments as of `sliding_losses`."""
    losses = [loss for window in sliding_losses(*arguments) for loss in window]
    return math.exp(sum(losses) / len(losses))
