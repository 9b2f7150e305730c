"""How a ledger, which knows nothing of keys and values, gives a policy those of the tokens that it holds."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from treekv.policies.scores import Contents


class SlotContents(Protocol):
    """Keys, values and last queries of some rows of a ledger, where they are stored."""

    def by_rank(self, slots: Tensor, position: Tensor) -> Contents:
        """Those of the tokens in `slots` LongTensor [rows, heads, held], oldest first; `position` [rows, heads, all
        slots] are the true positions by slot."""
        ...
