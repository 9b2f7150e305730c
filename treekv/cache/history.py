"""What a call says of earlier tokens, against what the cache has read."""

from __future__ import annotations

from torch import Tensor

from treekv.attention.interface import AttentionCall
from treekv.cache.layer import TreeKVLayer
from treekv.cache.ledger import Ledger
from treekv.errors import TreeKVError


def check_history(ledger: Ledger, own: slice, layer: TreeKVLayer, call: AttentionCall, q: int) -> None:
    """Compare what the attention mask, or else the positions, say of earlier tokens with what rows `own` of the ledger,
    those of the layer, have read.

    Raises:
        TreeKVError: they differ.
    """
    read_by_row = ledger.seen[own]
    if call.padding is None:
        read = max(read_by_row)
        first = read if call.position_ids is None else int(call.position_ids[:, 0].min())
        if first < read:
            raise TreeKVError(
                f"the new tokens start at position {first}, but the cache has read {read} tokens: give the whole "
                "conversation or what is new of it, or call cache.reset() for another prompt"
            )
        return
    masked = call.padding[:, :-q].sum(1).tolist()
    for number, (real, read) in enumerate(zip(masked, read_by_row, strict=True)):
        if real != read:
            row = number // layer.heads_as_rows
            raise TreeKVError(
                f"the attention mask says that {real} real tokens of row {row} came before the new ones, but the "
                f"cache has read {read}: give only the new ids, padded on the left, with a mask that starts with "
                "the columns read so far as they were, or give one row at a time"
            )


def forget_padding(ledger: Ledger, own: slice, layer: TreeKVLayer, history: Tensor) -> None:
    """Forget the last tokens of rows whose mask, bool [rows, columns read], says now that they are padding.

    Generation goes on with padding in a row that ended before others did. Only what is kept in every head can be
    forgotten, and what it displaced stays evicted; else `check_history` refuses, as with a trace or last queries.
    """
    if ledger.trace is not None or layer.queries is not None:
        return
    real, ended = history.sum(1).tolist(), history.flip(1).long().cumsum(1).eq(0).sum(1).tolist()
    for row, masked, columns in zip(range(own.start, own.stop), real, ended, strict=True):
        one, extra = slice(row, row + 1), ledger.seen[row] - masked
        rank = ledger.held[row] - extra  # of the first of them
        if not 0 < extra <= columns or rank < 0 or ledger.open_tokens(one):
            continue
        if not ledger.keeps_everything:
            first = ledger.position[row].gather(1, ledger.order[row, :, rank : rank + 1])
            if not bool((first == masked).all()):
                continue
        ledger.held.add(one, -extra)
        ledger.seen.add(one, -extra)
