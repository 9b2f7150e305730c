"""What a ledger knows of the rows of one layer, as tensors and plain numbers, and a ledger from several of these.

Slots stay where they are, so that a cache that goes on from here adds the same numbers in the same order.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor

from treekv.cache.block_snapshot import BlockSnapshot
from treekv.cache.ledger import Ledger
from treekv.cache.trace import LayerTrace, TraceCheckpoint
from treekv.errors import TreeKVError

TENSORS = ("order", "position", "sums")
NUMBERS = ("held", "seen", "first_query", "cursor", "capacity", "used_slots")


class LedgerState(NamedTuple):
    """The state of some rows.

    Attributes:
        tensors: `order`, `position` and `sums` [rows, heads, slots]; `undone` [rows with one, heads, slots], the orders
            before the evictions after an unfinished block; `log` of a trace.
        numbers: of the host, which JSON can hold: NUMBERS, one for each row; `open` and `trace`.
    """

    tensors: dict[str, Tensor]
    numbers: dict[str, Any]


def state_of(ledger: Ledger, rows: slice) -> LedgerState:
    """The state of rows that belong to one layer."""
    tensors = {name: ledger.rows_view(getattr(ledger, name), rows) for name in TENSORS}
    numbers: dict[str, Any] = {name: getattr(ledger, name)[rows] for name in NUMBERS}
    blocks = ledger.open_blocks[rows]
    if any(blocks):
        numbers["open"] = [block and _open_numbers(block) for block in blocks]
        undone = [_widened(block.order[None], ledger.slots) for block in blocks if block and block.order is not None]
        if undone:
            tensors["undone"] = torch.cat(undone)
    if ledger.trace is not None:
        tensors["log"], numbers["trace"] = ledger.trace.of(rows).state()
    return LedgerState(tensors, numbers)


def restore(ledger: Ledger, states: Sequence[LedgerState]) -> None:
    """Give a new ledger the states of its layers, in order.

    Raises:
        TreeKVError: they are not those of such a ledger; the sentence says what is wrong with them.
    """
    counts = [_check_tensors(state.tensors, ledger) for state in states]
    if sum(counts) != len(ledger.held):
        raise TreeKVError(f"it has {sum(counts)} rows of scores where {len(ledger.held)} are right")
    slots = max(state.tensors["order"].shape[2] for state in states)
    ledger.order = torch.cat([_widened(state.tensors["order"], slots) for state in states])
    for name in ("position", "sums"):
        padded = [torch.nn.functional.pad(s.tensors[name], (0, slots - s.tensors[name].shape[2])) for s in states]
        setattr(ledger, name, torch.cat(padded))
    for name in NUMBERS:
        every = [_numbers(state.numbers, name, rows) for state, rows in zip(states, counts, strict=True)]
        getattr(ledger, name)[:] = list(itertools.chain(*every))
    _check_numbers(ledger)
    blocks = [_blocks(state, rows, slots) for state, rows in zip(states, counts, strict=True)]
    ledger.open_blocks = list(itertools.chain(*blocks))
    if ledger.trace is not None:
        ledger.trace = LayerTrace.joined(
            [
                LayerTrace.from_state(state.tensors.get("log"), state.numbers.get("trace"), rows, ledger.heads)
                for state, rows in zip(states, counts, strict=True)
            ]
        )
    for row, block in enumerate(ledger.open_blocks):
        if block is not None:
            _check_block(ledger, row, block)


def used_slots(numbers: Any, rows: int) -> int:
    """How many slots the keys of a part must have, whose ledger state has these numbers.

    Raises:
        TreeKVError: they are not those of `rows` rows.
    """
    held, used = (_numbers(numbers, name, rows) for name in ("held", "used_slots"))
    return max(number or 0 for number in (*held, *used))


def _open_numbers(block: BlockSnapshot) -> list[Any]:
    mark = None if block.mark is None else [block.mark.logged, [list(run) for run in block.mark.runs]]
    return [block.tokens, block.held, block.cursor, block.order is not None, mark]


def _widened(order: Tensor, slots: int) -> Tensor:
    """Orders [rows, heads, n] of more slots; the further ones are free."""
    more = torch.arange(order.shape[2], slots, device=order.device).expand(*order.shape[:2], -1)
    return torch.cat([order, more], dim=2) if more.shape[2] else order


# ---------------------------------------------------------------------- what a file may say


def _check_tensors(tensors: Mapping[str, Tensor], ledger: Ledger) -> int:
    """How many rows they have."""
    shapes = {tuple(tensors[name].shape) for name in TENSORS}
    kinds = tuple(tensors[name].dtype for name in TENSORS)
    order, sums = tensors["order"], tensors["sums"]
    if len(shapes) != 1 or order.ndim != 3 or order.shape[1] != ledger.heads:
        raise TreeKVError(f"its scores have the shapes {sorted(shapes)}")
    if kinds != (torch.int64, torch.int64, torch.float32):
        raise TreeKVError(f"its scores are of the kinds {kinds}")
    orders = [order] if "undone" not in tensors else [order, tensors["undone"]]
    for each in orders:
        if each.dtype != torch.int64 or each.shape[1:] != order.shape[1:] or not _permutes(each):
            raise TreeKVError("the order of its slots is none")
    if not bool(sums.isfinite().all()) or bool((tensors["position"] < 0).any()):
        raise TreeKVError("its scores or positions are impossible")
    return order.shape[0]


def _permutes(order: Tensor) -> bool:
    """Whether every row is a permutation of the slots."""
    slots = torch.arange(order.shape[2], device=order.device)
    return bool((order.sort(dim=2).values == slots).all())


def _check_numbers(ledger: Ledger) -> None:
    """What the ledger's numbers must be, so that nothing is looked for where there is no slot."""
    config, slots, everything = ledger.config, ledger.slots, ledger.keeps_everything
    bounded = ledger.policy.evicts_after(config)
    for row, (held, seen, first, cursor, capacity, used) in enumerate(
        zip(*(getattr(ledger, name)[:] for name in NUMBERS), strict=True)
    ):
        right = capacity is not None and capacity >= ledger.policy.capacity(config) if bounded else capacity is None
        fits = held <= seen and first <= seen and max(0 if everything else held, used) <= slots
        if not (right and fits):
            raise TreeKVError(f"the numbers of its row {row} do not fit together")
        if cursor >= _cursor_limit(ledger, capacity):
            raise TreeKVError(f"the cursor of its row {row} is outside the cache")
    if everything:
        return
    held, seen = (torch.tensor(each[:], device=ledger.device)[:, None, None] for each in (ledger.held, ledger.seen))
    by_rank = ledger.position.gather(2, ledger.order)
    kept = torch.arange(slots, device=ledger.device) < held
    if bool(((by_rank >= seen) & kept).any()):
        raise TreeKVError("it keeps tokens that it has not seen")
    if bool(((by_rank[..., 1:] <= by_rank[..., :-1]) & kept[..., 1:]).any()):
        raise TreeKVError("it keeps tokens twice, or in another order than they came")


def _cursor_limit(ledger: Ledger, capacity: int | None) -> int:
    """No cursor of a row with this capacity reaches it."""
    wrap = None
    if capacity is not None and ledger.policy.evicts_after(ledger.config):
        wrap = ledger.policy.cursor_wrap(ledger.config, capacity)
    return ledger.slots + 1 if wrap is None else wrap


def _check_block(ledger: Ledger, row: int, block: BlockSnapshot) -> None:
    """Refuse an unfinished block that no further tokens could finish."""
    mark, trace = block.mark, ledger.trace
    marked = mark is None or (trace is not None and trace.has(row, mark))
    fits = block.tokens < ledger.config.block_size and block.cursor < _cursor_limit(ledger, ledger.capacity[row])
    if not (fits and marked):
        raise TreeKVError(f"the unfinished block of its row {row} does not fit")


def _numbers(numbers: Any, name: str, rows: int) -> list[int | None]:
    """Whole numbers of at least 0, one for each row; a capacity may be None."""
    found = numbers.get(name) if isinstance(numbers, dict) else None
    optional = name == "capacity"
    if not isinstance(found, list) or len(found) != rows:
        raise TreeKVError(f"it has no {name} for each of its {rows} rows")
    if not all(is_count(each) or (optional and each is None) for each in found):
        raise TreeKVError(f"its {name} is no list of whole numbers")
    return found


def is_count(value: Any) -> TypeGuard[int]:
    """Whether this is a whole number that can count tokens."""
    return type(value) is int and 0 <= value < 2**53


def _blocks(state: LedgerState, rows: int, slots: int) -> Iterable[BlockSnapshot | None]:
    described = state.numbers.get("open", [None] * rows)
    undone = list(_widened(state.tensors["undone"], slots)) if "undone" in state.tensors else []
    if not isinstance(described, list) or len(described) != rows:
        raise TreeKVError("its unfinished blocks do not fit its rows")
    blocks: list[BlockSnapshot | None] = []
    for each in described:
        if each is None:
            blocks.append(None)
            continue
        if not (isinstance(each, list) and len(each) == 5 and all(map(is_count, each[:3])) and each[1] <= slots):
            raise TreeKVError("its unfinished blocks do not fit its rows")
        tokens, held, cursor, evicted, mark = each
        if evicted and not undone:
            raise TreeKVError("an unfinished block has lost what it evicted")
        order = undone.pop(0) if evicted else None
        blocks.append(BlockSnapshot(tokens, held, cursor, order, _mark(mark)))
    return blocks


def _mark(described: Any) -> TraceCheckpoint | None:
    if described is None:
        return None
    if not (isinstance(described, list) and len(described) == 2 and is_count(described[0])):
        raise TreeKVError("the trace of an unfinished block is none")
    return TraceCheckpoint(described[0], LayerTrace.runs_from(described[1]))
