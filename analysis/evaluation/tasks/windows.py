"""The paper's protocol of perplexity: windows that slide over a text, each read from an empty cache.

Windows of `length` tokens start every `stride` tokens. The last `stride` tokens of each are counted, and all of the
first, so that every token is counted once, at most `length` tokens after the start of its window.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor


def window_count(stretch: int, length: int, stride: int) -> int:
    """How many windows of `length` tokens fit into `stretch` tokens; what follows the last one is left out."""
    return (stretch - length) // stride + 1


def windows_of(ids: Sequence[int], before: int, length: int, stride: int) -> list[list[int]]:
    """The windows of a stretch whose first `before` tokens are special; every window starts with these."""
    special, own, size = list(ids[:before]), list(ids[before:]), length - before
    count = window_count(len(ids), length, stride)
    return [special + own[first : first + size] for first in range(0, count * stride, stride)]


def counted(nll: Tensor, stride: int) -> list[Tensor]:
    """What counts of the losses [windows, length - 1]: all of the first window, and the last `stride` of each other."""
    return [nll[0], *nll[1:, -stride:]]


def at_shorter_lengths(nll: Tensor, stride: int) -> dict[int, float]:
    """The perplexity at the end of windows of `stride`, twice as many, ... tokens that start where these start.

    A cache that evicts from the first token on has read a shorter window when it is so far into a longer one, so the
    longer one tells the loss over the last `stride` tokens of both. Takes losses [windows, length - 1]; of a window of
    `stride` tokens all are counted, and the last `stride` of the first window too.
    """
    found = {}
    length = stride
    while length <= nll.shape[1] + 1:
        last = nll[:, max(length - stride - 1, 0) : length - 1]
        if last.shape[1]:
            found[length] = math.exp(last.mean().item())
        length *= 2
    return found
