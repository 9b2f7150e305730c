"""One value per row, nearly always the same for all rows."""

from __future__ import annotations

from typing import Any, Generic, TypeVar, overload

import torch
from torch import Tensor

T = TypeVar("T")


class RowValues(Generic[T]):
    """A value for each row, stored once while all rows have the same: a compiled step then sees a single number that
    changes, not one for each row.
    """

    def __init__(self, value: T, rows: int) -> None:
        self._rows = rows
        self._only: Any = value  # of all rows
        self._each: list[T] | None = None  # unless all rows have the same

    def __len__(self) -> int:
        return self._rows

    @overload
    def __getitem__(self, rows: int) -> T: ...
    @overload
    def __getitem__(self, rows: slice) -> list[T]: ...
    def __getitem__(self, rows: int | slice) -> T | list[T]:
        if self._each is not None:
            return self._each[rows]
        only = self._only
        return only if isinstance(rows, int) else [only] * len(range(self._rows)[rows])

    def __setitem__(self, rows: slice, values: list[T]) -> None:
        if self.covers(rows):
            every = values
        else:
            every = self[:]
            every[rows] = values
        self._only, self._each = (every[0], None) if same(every) else (None, every)

    def covers(self, rows: slice) -> bool:
        """Whether these are all rows."""
        return (rows.start == 0 and rows.stop == self._rows) or len(range(self._rows)[rows]) == self._rows

    def uniform(self, rows: slice) -> bool:
        """Whether these rows all have the same value."""
        return self._each is None or same(self._each[rows])

    def first(self, rows: slice) -> T:
        """The value of the first of these rows."""
        return self._only if self._each is None else self._each[rows][0]

    def as_operand(self, rows: slice, device: torch.device) -> T | Tensor:
        """The number that all of these rows have, or LongTensor [rows, 1, 1] if they differ."""
        if self._each is None:
            return self._only
        return self.first(rows) if self.uniform(rows) else torch.tensor(self[rows], device=device)[:, None, None]

    def set(self, rows: slice, value: T) -> None:
        """Give all of these rows one value."""
        if self.covers(rows):
            self._only, self._each = value, None
        else:
            self[rows] = [value] * len(range(self._rows)[rows])

    def add(self, rows: slice, q: int) -> None:
        """Add q to the number of each of these rows."""
        if self._each is None and self.covers(rows):
            self._only += q
        else:
            values: list[Any] = self[rows]
            self[rows] = [value + q for value in values]

    def select(self, rows: list[int]) -> None:
        every = [self[row] for row in rows]
        self._rows = len(every)
        self[:] = every


def same(per_row: list) -> bool:
    """Whether all rows have the same number; written so that torch.compile need not know which."""
    return all(value == per_row[0] for value in per_row[1:])
