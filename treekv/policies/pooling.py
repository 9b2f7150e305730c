"""Smoothing of scores over neighbouring tokens."""

from __future__ import annotations

from typing import Final

from torch import Tensor
from torch.nn.functional import avg_pool1d, max_pool1d, pad

#: A token's score is the mean over itself and the tokens before it, so that what follows an attended token stays.
FORWARD: Final = "forward"
FORWARD_KERNEL: Final = 12  # tokens by default: a number of seven digits, or a few words, and some room


def smooth(values: Tensor, kernel: int, kind: str) -> Tensor:
    """Pooling of `values` [batch, heads, n] over `kernel` positions, stride 1, same length: centred ("average", "max"),
    or over a position and those before it ("forward", a mean). A mean counts what is outside as zeros."""
    if kind == FORWARD:
        return avg_pool1d(pad(values, (kernel - 1, 0)), kernel, stride=1)
    pooling = avg_pool1d if kind == "average" else max_pool1d
    return pooling(values, kernel, stride=1, padding=kernel // 2)
