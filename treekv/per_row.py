"""Numbers that rows have each, and nearly always all the same."""

from __future__ import annotations

from typing import Any, Generic, TypeVar, overload

import torch
from torch import Tensor

T = TypeVar("T")


class PerRow(Generic[T]):
    """A list with a value for each row, written once while all rows have the same: a compiled step then sees a single
    number that changes, not one for each row.

    Attributes:
        only: what all rows have; None if they differ.
    """

    def __init__(self, value: T, rows: int) -> None:
        self._rows = rows
        self._set([value])

    def _set(self, values: list[T]) -> None:
        """One value for each row, or one for all."""
        self._values = values
        self.only = values[0] if len(values) == 1 else None

    def __len__(self) -> int:
        return self._rows

    @overload
    def __getitem__(self, rows: int) -> T: ...
    @overload
    def __getitem__(self, rows: slice) -> list[T]: ...
    def __getitem__(self, rows: int | slice) -> T | list[T]:
        if isinstance(rows, int):
            return self._values[0 if len(self._values) == 1 else rows]
        return self._values * len(range(self._rows)[rows]) if len(self._values) == 1 else self._values[rows]

    def __setitem__(self, rows: slice, values: list[T]) -> None:
        if len(values) == self._rows:
            every = values
        else:
            every = self[:]
            every[rows] = values
        self._set(every[:1] if same(every) else every)

    def covers(self, rows: slice) -> bool:
        """Whether that is all rows."""
        return (rows.start == 0 and rows.stop == self._rows) or len(range(self._rows)[rows]) == self._rows

    def alike(self, rows: slice) -> bool:
        """Whether some rows all have the same."""
        return len(self._values) == 1 or same(self._values[rows])

    def first(self, rows: slice) -> T:
        """That of the first of some rows."""
        return self._values[0] if len(self._values) == 1 else self._values[rows][0]

    def shared(self, rows: slice, device: torch.device) -> T | Tensor:
        """The number that all of these rows have, or LongTensor [rows, 1, 1] if they differ."""
        if self.only is not None:
            return self.only
        return self.first(rows) if self.alike(rows) else torch.tensor(self[rows], device=device)[:, None, None]

    def fill(self, rows: slice, value: T) -> None:
        """Give some rows the same."""
        if self.covers(rows):
            self._set([value])
        else:
            self[rows] = [value] * len(range(self._rows)[rows])

    def more(self, rows: slice, q: int) -> None:
        """Add to the numbers of some rows."""
        values: list[Any] = self._values if self.covers(rows) else self[rows]
        more = [value + q for value in values]
        if values is self._values:
            self._set(more)
        else:
            self[rows] = more

    def select(self, rows: list[int]) -> None:
        every = [self[row] for row in rows]
        self._rows = len(every)
        self[:] = every


def same(per_row: list) -> bool:
    """Whether all rows have the same number; written so that torch.compile need not know which."""
    return all(value == per_row[0] for value in per_row[1:])
