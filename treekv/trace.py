"""Who was evicted when, and by whom: a log with two integers for each eviction of each head."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

KEPT = -1
NOBODY = -1
CHUNK = 64  # evictions; room is added this much at a time, so little stands empty


class LayerTrace:
    """The evictions of one layer, written as they happen and read as two labelled arrays.

    Each head of a row evicts equally often and at the same steps, so a step is noted once for all heads, and equally
    many evictions at equal distances (one at each step while decoding, a block's at each block) are noted as one run:
    a token costs less than 8 bytes per head.
    """

    def __init__(self, batch: int, heads: int, device: torch.device) -> None:
        self.batch, self.heads, self.device = batch, heads, device
        self._losers: list[Tensor] = []  # int32 [batch, heads, CHUNK] each
        self._winners: list[Tensor] = []
        self._count = [0] * batch
        self._tokens = [0] * batch
        self._runs: list[list[_Run]] = [[] for _ in range(batch)]

    @property
    def evicted_at(self) -> Tensor:
        """int32 [batch, kv_heads, tokens]: the position of the token that was being processed when this one was
        evicted, -1 while it is kept. Rows with fewer tokens end with -1."""
        steps = [self._steps(row)[None] for row in range(self.batch)]
        return self._dense(steps)

    @property
    def survivor(self) -> Tensor:
        """int32 of the same shape: the position of the token that won the comparison, -1 where nothing was
        compared or evicted."""
        winners = torch.cat(self._winners, dim=2) if self._winners else None
        if winners is None:
            winners = torch.full((self.batch, self.heads, max(self._count, default=0)), NOBODY, dtype=torch.int32)
            winners = winners.to(self.device)
        return self._dense([winners[row, :, : self._count[row]] for row in range(self.batch)])

    @property
    def nbytes(self) -> int:
        """Bytes of the log: on the device, and on the host for the runs."""
        log = sum(chunk.numel() * chunk.element_size() for chunk in self._losers + self._winners)
        return log + _RUN_BYTES * sum(map(len, self._runs))

    def extend(self, rows: slice, tokens: list[int]) -> None:
        """Count the tokens that rows have seen; new ones count as kept."""
        self._tokens[rows] = tokens

    def record(self, rows: slice, losers: Tensor, winners: Tensor | None, step: int | Tensor) -> None:
        """Note that `losers` [rows, heads, m] (positions) went at `step`, beaten by `winners`."""
        numbers = range(self.batch)[rows]
        steps = step.flatten().tolist() if isinstance(step, Tensor) else [step] * len(numbers)
        if any(self._count[row] != self._count[numbers[0]] for row in numbers):
            for i, row in enumerate(numbers):
                one = slice(row, row + 1)
                self._write(one, losers[i : i + 1], None if winners is None else winners[i : i + 1])
        else:
            self._write(rows, losers, winners)
        for row, at in zip(numbers, steps, strict=True):
            self._note(row, at, losers.shape[2])

    def record_prompt(self, rows: slice, kept: Tensor, survivors: Tensor | None, length: int) -> None:
        """Note the outcome of prefill "tree": whatever is not in `kept` went with the prompt's last token."""
        gone = torch.ones((*kept.shape[:2], length), dtype=torch.bool, device=self.device).scatter_(2, kept, False)
        losers = gone.nonzero()[:, 2].view(*kept.shape[:2], -1)
        if survivors is not None:
            survivors = survivors.expand(*kept.shape[:2], -1).gather(2, losers)
        self.record(rows, losers, survivors, length - 1)

    def of(self, rows: slice) -> LayerTrace:
        """The part of some rows, as it is now."""
        part = LayerTrace(len(self._count[rows]), self.heads, self.device)
        part._losers = [chunk[rows] for chunk in self._losers]
        part._winners = [chunk[rows] for chunk in self._winners]
        part._count, part._tokens = self._count[rows], self._tokens[rows]
        part._runs = [[replace(run) for run in runs] for runs in self._runs[rows]]
        return part

    def mark(self, row: int) -> Mark:
        """How far the log of a row has come."""
        return Mark(self._count[row], tuple(replace(run) for run in self._runs[row][-1:]), len(self._runs[row]))

    def take_back(self, row: int, mark: Mark) -> None:
        """Forget what was recorded of a row since then."""
        self._count[row] = mark.logged
        runs = self._runs[row]
        del runs[mark.runs :]
        runs[len(runs) - len(mark.last) :] = [replace(run) for run in mark.last]

    def copy_tensors(self) -> None:
        """Replace every tensor by a copy."""
        self._losers = [chunk.clone() for chunk in self._losers]
        self._winners = [chunk.clone() for chunk in self._winners]

    def select(self, index: Tensor) -> None:
        """Keep, repeat or reorder batch rows."""
        self._losers = [chunk.index_select(0, index) for chunk in self._losers]
        self._winners = [chunk.index_select(0, index) for chunk in self._winners]
        rows = index.tolist()
        self.batch = len(rows)
        self._count = [self._count[row] for row in rows]
        self._tokens = [self._tokens[row] for row in rows]
        self._runs = [[replace(run) for run in self._runs[row]] for row in rows]

    def _write(self, rows: slice, losers: Tensor, winners: Tensor | None) -> None:
        """Append to the log of rows that have logged equally much."""
        first, done, m = self._count[rows][0], 0, losers.shape[2]
        if winners is not None:
            while len(self._winners) < len(self._losers):
                self._winners.append(self._chunk())
        while done < m:
            chunk, start = divmod(first + done, CHUNK)
            if chunk == len(self._losers):
                self._losers.append(self._chunk())
                if winners is not None or self._winners:
                    self._winners.append(self._chunk())
            now = min(m - done, CHUNK - start)
            self._losers[chunk][rows, :, start : start + now] = losers[..., done : done + now]
            if winners is not None:
                self._winners[chunk][rows, :, start : start + now] = winners[..., done : done + now]
            done += now
        self._count[rows] = [first + m] * len(self._count[rows])

    def _chunk(self) -> Tensor:
        return torch.full((self.batch, self.heads, CHUNK), NOBODY, dtype=torch.int32, device=self.device)

    def _note(self, row: int, step: int, m: int) -> None:
        """m evictions of a row at `step`; a step may come in several parts."""
        runs = self._runs[row]
        if runs and runs[-1].last == step:
            m += runs[-1].each
            runs[-1].length -= 1
            if not runs[-1].length:
                runs.pop()
        if runs and runs[-1].goes_on(step, m):
            runs[-1].stride = step - runs[-1].last
            runs[-1].length += 1
        elif m:
            runs.append(_Run(step, m))

    def _steps(self, row: int) -> Tensor:
        """int32 [evictions of this row], when each happened."""
        parts = [
            torch.arange(run.step, run.last + 1, run.stride, dtype=torch.int32).repeat_interleave(run.each)
            for run in self._runs[row]
        ]
        return torch.cat(parts).to(self.device) if parts else torch.empty(0, dtype=torch.int32, device=self.device)

    def _dense(self, values: list[Tensor]) -> Tensor:
        """From one value per eviction to one per token."""
        shape = (self.batch, self.heads, max(self._tokens, default=0))
        result = torch.full(shape, -1, dtype=torch.int32, device=self.device)
        if self._losers:
            losers = torch.cat(self._losers, dim=2)
            for row, value in enumerate(values):
                index = losers[row, :, : self._count[row]].long()
                result[row].scatter_(1, index, value.expand_as(index))
        return result


class Mark(NamedTuple):
    """A place in the log of a row."""

    logged: int
    last: tuple[_Run, ...]  # as it was: a run grows in place
    runs: int


@dataclass(slots=True)
class _Run:
    """`each` evictions at every one of `length` steps, `stride` apart, from `step` on."""

    step: int
    each: int
    length: int = 1
    stride: int = 1

    @property
    def last(self) -> int:
        return self.step + (self.length - 1) * self.stride

    def goes_on(self, step: int, each: int) -> bool:
        """Whether the next step of this run is this one."""
        return self.each == each and (self.length == 1 or step - self.last == self.stride)


_RUN_BYTES = sys.getsizeof(_Run(0, 0)) + 4 * sys.getsizeof(2**30) + 8  # its numbers, and its place in a list
