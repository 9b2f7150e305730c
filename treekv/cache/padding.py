"""Padding of a batch, and the positions of its new tokens."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from treekv.errors import TreeKVError


def split_padding(padding: Tensor | None, batch: int, q: int) -> tuple[list[int], dict[int, Tensor]]:
    """How many of the q newest columns are padding, per row, and the real columns of rows in which padding stands
    between real tokens (a second turn, padded on the left, after a token that was generated but not read).

    `padding` bool [batch, seen + q], False where a token is padding, or None for none.

    Raises:
        TreeKVError: there is padding to the right of a row's last token.
    """
    if padding is None:
        return [0] * batch, {}
    new = padding[:, -q:].bool()
    pads = (~new).sum(1)
    count = pads.tolist()
    if torch.equal(new, torch.arange(q, device=new.device) >= pads[:, None]):
        return count, {}
    scattered = {}
    for row, columns in enumerate(new):
        real = columns.nonzero()[:, 0]
        if count[row] < q and int(real[-1]) < q - 1:
            raise TreeKVError(
                f"the attention mask has padding to the right of the last token of row {row}; a TreeKV cache needs "
                "padding on the left (tokenizer.padding_side = 'left')"
            )
        if count[row] < q and int(real[0]) < count[row]:
            scattered[row] = real
    return count, scattered


class TokenPositions(NamedTuple):
    """Positions of the new tokens of some rows, in the model's own counting.

    Attributes:
        position_ids: LongTensor [1 or batch, columns] as the model used them, or None where it does not pass them on.
        rows: rows of the batch.
        first: the column of the first new token.
        seen: real tokens of each row before it, where there are no position_ids.
        device: of the tokens.
    """

    position_ids: Tensor | None
    rows: slice
    first: int
    seen: list[int]
    device: torch.device

    def after(self, tokens: int) -> TokenPositions:
        """The same without the first `tokens` new tokens."""
        return self._replace(first=self.first + tokens, seen=[seen + tokens for seen in self.seen])

    def columns(self, count: int) -> tuple[Tensor, slice, int, int]:
        """The arguments that `Rotary.shift` takes."""
        if self.position_ids is None:
            return self.true(count), slice(0, self.rows.stop - self.rows.start), 0, count
        return self.position_ids, self.rows, self.first, count

    def true(self, count: int) -> Tensor:
        """LongTensor [1 or rows, count]."""
        if self.position_ids is None:
            seen = torch.tensor(self.seen, device=self.device)
            return seen[:, None] + torch.arange(count, device=self.device)
        rows = self.rows if self.position_ids.shape[0] > 1 else slice(0, 1)
        return self.position_ids[rows, self.first : self.first + count]
