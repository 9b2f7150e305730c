"""What a row of a ledger was before it evicted."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from treekv.cache.trace import TraceCheckpoint


class BlockSnapshot(NamedTuple):
    """The state of a row before it evicted after a block that is not full yet."""

    tokens: int  # of the block
    held: int
    cursor: int
    order: Tensor | None  # LongTensor [heads, slots]; None if nothing was evicted
    mark: TraceCheckpoint | None
