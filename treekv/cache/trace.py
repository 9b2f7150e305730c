"""When each token was evicted, and which token survived: a log of two integers for each eviction of each head."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from treekv.cache.row_values import RowValues
from treekv.errors import TreeKVError

NO_TOKEN = -1
CHUNK = 64  # evictions; memory is added this much at a time, so little is unused


class LayerTrace:
    """The evictions of one layer, written as they happen and read as two labelled arrays.

    Each head of a row evicts equally often and at the same steps, so a step is recorded once for all heads. Equally
    many evictions at equal distances (one at each step while decoding, a block's at each block) are recorded as one
    run, so a token costs less than 8 bytes per head.
    """

    def __init__(self, batch: int, heads: int, device: torch.device) -> None:
        self.batch, self.heads, self.device = batch, heads, device
        # int32 [fields, batch, heads, CHUNK] each; fields are the loser and, as soon as there is one, the survivor.
        self._log: list[Tensor] = []
        self._fields = 1
        self._count = RowValues(0, batch)
        self._tokens = RowValues(0, batch)
        self._runs: RowValues[tuple[_Run, ...]] = RowValues((), batch)

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
        counts = self._count[:]
        if self._fields == 1:
            empty = torch.full((1, max(counts, default=0)), NO_TOKEN, dtype=torch.int32, device=self.device)
            return self._dense([empty[:, :n] for n in counts])
        logged = self._logged(1)
        return self._dense([logged[row, :, :n] for row, n in enumerate(counts)])

    @property
    def nbytes(self) -> int:
        """Bytes of the log: on the device, and on the host for the runs, as if rows shared none."""
        log = sum(chunk.numel() * chunk.element_size() for chunk in self._log)
        return log + _RUN_BYTES * sum(map(len, self._runs[:]))

    def extend(self, rows: slice, tokens: int) -> None:
        """Rows have seen so many more tokens; these count as kept."""
        self._tokens.add(rows, tokens)

    def record(self, rows: slice, evicted: Tensor, step: int | Tensor) -> None:
        """Record evictions at `step`, one for all rows or for each of them: `evicted` [1 or 2, rows, heads, m] are the
        positions of the losers and, if there are any, of the survivors."""
        if self._count.uniform(rows):
            self._write(rows, evicted)
        else:
            for i, row in enumerate(range(self.batch)[rows]):
                self._write(slice(row, row + 1), evicted[:, i : i + 1])
        m = evicted.shape[3]
        if isinstance(step, Tensor):
            steps = step.flatten().tolist()
            self._runs[rows] = [_extended(own, at, m) for own, at in zip(self._runs[rows], steps, strict=True)]
        elif self._runs.uniform(rows):
            self._runs.set(rows, _extended(self._runs.first(rows), step, m))
        else:
            self._runs[rows] = [_extended(own, step, m) for own in self._runs[rows]]

    def record_prompt(self, rows: slice, kept: Tensor, survivors: Tensor | None, length: int) -> None:
        """Record the outcome of prefill "once": what is not in `kept` was evicted with the prompt's last token."""
        mask = torch.ones((*kept.shape[:2], length), dtype=torch.bool, device=self.device).scatter_(2, kept, False)
        evicted = mask.nonzero()[:, 2].view(1, *kept.shape[:2], -1)
        if survivors is not None:
            winners = survivors.expand(*kept.shape[:2], -1).gather(2, evicted[0])
            evicted = torch.cat([evicted, winners[None]])
        self.record(rows, evicted, length - 1)

    def of(self, rows: slice) -> LayerTrace:
        """A copy of some rows, as they are now."""
        part = LayerTrace(len(range(self.batch)[rows]), self.heads, self.device)
        part._log, part._fields = [chunk[:, rows] for chunk in self._log], self._fields
        part._count[:], part._tokens[:], part._runs[:] = self._count[rows], self._tokens[rows], self._runs[rows]
        return part

    def mark(self, row: int) -> TraceCheckpoint:
        """The present length of the log of a row."""
        return TraceCheckpoint(self._count[row], self._runs[row])

    def has(self, row: int, mark: TraceCheckpoint) -> bool:
        """Whether a row has come past this place."""
        return mark.logged <= self._count[row] and sum(run.evictions for run in mark.runs) == mark.logged

    def take_back(self, row: int, mark: TraceCheckpoint) -> None:
        """Forget what was recorded of a row since `mark`."""
        self._count[row : row + 1], self._runs[row : row + 1] = [mark.logged], [mark.runs]

    def copy_tensors(self) -> None:
        """Replace every tensor by a copy."""
        self._log = [chunk.clone() for chunk in self._log]

    def select(self, index: Tensor) -> None:
        """Keep, repeat or reorder batch rows."""
        self._log = [chunk.index_select(1, index) for chunk in self._log]
        rows = index.tolist()
        self.batch = len(rows)
        for per_row in (self._count, self._tokens, self._runs):
            per_row.select(rows)

    def state(self) -> tuple[Tensor, list[list[Any]]]:
        """Everything there is, for `from_state`: the log, int32 [fields, batch, heads, evictions], and of each row
        numbers that JSON can hold: tokens, evictions, and the runs."""
        empty = torch.empty((self._fields, self.batch, self.heads, 0), dtype=torch.int32, device=self.device)
        runs = [[list(run) for run in own] for own in self._runs[:]]
        rows = [list(row) for row in zip(self._tokens[:], self._count[:], runs, strict=True)]
        return torch.cat([empty, *self._log], dim=3), rows

    @classmethod
    def from_state(cls, log: Tensor | None, rows: Any, batch: int, heads: int) -> LayerTrace:
        """The inverse of `state`.

        Raises:
            TreeKVError: it is not that of a trace of `batch` rows.
        """
        right = log is not None and log.dtype == torch.int32 and log.ndim == 4 and log.shape[0] in (1, 2)
        if log is None or not right or log.shape[1:3] != (batch, heads):
            raise TreeKVError("its trace does not fit its rows")
        if not isinstance(rows, list) or len(rows) != batch:
            raise TreeKVError("its trace does not fit its rows")
        trace = cls(batch, heads, log.device)
        trace._fields = log.shape[0]
        trace._log = [chunk.contiguous() for chunk in log.split(CHUNK, dim=3) if chunk.shape[3] == CHUNK]
        if len(trace._log) * CHUNK != log.shape[3]:
            raise TreeKVError("the log of its trace ends too early")
        for number, row in enumerate(rows):
            if not (isinstance(row, list) and len(row) == 3 and all(type(n) is int and n >= 0 for n in row[:2])):
                raise TreeKVError("its trace does not fit its rows")
            tokens, count, described = row
            runs = cls.runs_from(described)
            logged = log[:, number, :, :count]
            if count > log.shape[3] or sum(run.evictions for run in runs) != count:
                raise TreeKVError("its trace has lost evictions")
            if count and not (
                int(logged.min()) >= NO_TOKEN and int(logged.max()) < tokens and int(logged[0].min()) >= 0
            ):
                raise TreeKVError("its trace evicts tokens that were not seen")
            one = slice(number, number + 1)
            trace._tokens[one], trace._count[one], trace._runs[one] = [tokens], [count], [runs]
        return trace

    @classmethod
    def joined(cls, traces: Sequence[LayerTrace]) -> LayerTrace:
        """The rows of several traces of equally many heads, one after the other."""
        whole = cls(sum(trace.batch for trace in traces), traces[0].heads, traces[0].device)
        whole._fields = max(trace._fields for trace in traces)
        shape = (whole._fields, whole.batch, whole.heads, CHUNK)
        for number in range(max(len(trace._log) for trace in traces)):
            chunk, first = torch.full(shape, NO_TOKEN, dtype=torch.int32, device=whole.device), 0
            for trace in traces:
                if number < len(trace._log):
                    chunk[: trace._fields, first : first + trace.batch] = trace._log[number]
                first += trace.batch
            whole._log.append(chunk)
        whole._count[:] = [n for trace in traces for n in trace._count[:]]
        whole._tokens[:] = [n for trace in traces for n in trace._tokens[:]]
        whole._runs[:] = [runs for trace in traces for runs in trace._runs[:]]
        return whole

    @staticmethod
    def runs_from(described: Any) -> tuple[_Run, ...]:
        """Runs from the numbers that `state` gives of them.

        Raises:
            TreeKVError: they are none.
        """
        runs = []
        for each in described if isinstance(described, list) else [None]:
            if not (isinstance(each, list) and len(each) == 4 and all(type(n) is int and n >= 0 for n in each)):
                raise TreeKVError("the evictions of its trace are no runs")
            run = _Run(*each)
            if run.last < run.first or (run.stride == 0 and run.last != run.first):
                raise TreeKVError("the evictions of its trace are no runs")
            runs.append(run)
        return tuple(runs)

    def _write(self, rows: slice, evicted: Tensor) -> None:
        """Append to the log of rows that have logged equally much."""
        first, done, (fields, _, _, m) = self._count.first(rows), 0, evicted.shape
        if fields > self._fields:
            self._fields = fields
            self._log = [torch.cat([chunk, torch.full_like(chunk, NO_TOKEN)]) for chunk in self._log]
        while done < m:
            number, start = divmod(first + done, CHUNK)
            if number == len(self._log):
                shape = (self._fields, self.batch, self.heads, CHUNK)
                self._log.append(torch.full(shape, NO_TOKEN, dtype=torch.int32, device=self.device))
            now = min(m - done, CHUNK - start)
            chunk = self._log[number].narrow(3, start, now)
            if not (self._count.covers(rows) and fields == self._fields):
                chunk = chunk[:fields, rows]
            chunk.copy_(evicted if now == m else evicted.narrow(3, done, now))
            done += now
        self._count.add(rows, m)

    def _logged(self, field: int) -> Tensor:
        """int32 [batch, heads, evictions]."""
        return torch.cat([chunk[field] for chunk in self._log], dim=2)

    def _steps(self, row: int) -> Tensor:
        """int32 [evictions of this row], when each happened."""
        parts = [
            torch.arange(run.first, run.last + 1, run.stride or 1, dtype=torch.int32).repeat_interleave(run.each)
            for run in self._runs[row]
        ]
        return torch.cat(parts).to(self.device) if parts else torch.empty(0, dtype=torch.int32, device=self.device)

    def _dense(self, values: list[Tensor]) -> Tensor:
        """From one value per eviction to one per token."""
        shape = (self.batch, self.heads, max(self._tokens[:], default=0))
        result = torch.full(shape, -1, dtype=torch.int32, device=self.device)
        if self._log:
            losers = self._logged(0)
            for row, value in enumerate(values):
                index = losers[row, :, : self._count[row]].long()
                result[row].scatter_(1, index, value.expand_as(index))
        return result


class JoinedTrace:
    """The evictions of one layer whose KV heads have capacities of their own, from the traces of its parts.

    Args:
        parts: the numbers of a part's heads, and its trace, whose rows are these heads of each row of the batch.
    """

    def __init__(self, parts: Sequence[tuple[list[int] | None, LayerTrace]]) -> None:
        self._parts = [(numbers or [], trace) for numbers, trace in parts]

    @property
    def evicted_at(self) -> Tensor:
        """See `LayerTrace.evicted_at`."""
        return self._join([trace.evicted_at for _, trace in self._parts])

    @property
    def survivor(self) -> Tensor:
        """See `LayerTrace.survivor`."""
        return self._join([trace.survivor for _, trace in self._parts])

    @property
    def nbytes(self) -> int:
        """See `LayerTrace.nbytes`."""
        return sum(trace.nbytes for _, trace in self._parts)

    def _join(self, values: list[Tensor]) -> Tensor:
        numbers = torch.tensor([number for own, _ in self._parts for number in own], device=values[0].device)
        by_head = [
            value.unflatten(0, (-1, len(own)))[:, :, 0] for (own, _), value in zip(self._parts, values, strict=True)
        ]
        return torch.cat(by_head, dim=1).index_select(1, numbers.argsort())


class TraceCheckpoint(NamedTuple):
    """A place in the log of a row, to return to."""

    logged: int
    runs: tuple[_Run, ...]


class _Run(NamedTuple):
    """`each` evictions at every step from `first` to `last`, `stride` apart; `stride` is 0 for a single step."""

    first: int
    each: int
    last: int
    stride: int = 0

    @property
    def evictions(self) -> int:
        steps = 1 + (self.last - self.first) // self.stride if self.stride else 1
        return steps * self.each


def _extended(runs: tuple[_Run, ...], step: int, m: int) -> tuple[_Run, ...]:
    """The few runs of a row, with m more evictions at `step`, which may be recorded in several parts."""
    if not m:
        return runs
    if runs and runs[-1].last == step:
        *before, run = runs
        m += run.each
        if run.stride:
            last = step - run.stride
            before.append(run._replace(last=last, stride=run.stride if last > run.first else 0))
        runs = tuple(before)
    if runs and runs[-1].each == m and runs[-1].stride in (0, step - runs[-1].last):
        return (*runs[:-1], _Run(runs[-1].first, m, step, step - runs[-1].last))
    return (*runs, _Run(step, m, step))


_RUN_BYTES = sys.getsizeof(_Run(0, 0, 0)) + 4 * sys.getsizeof(2**30) + 8  # its numbers, and its place in a tuple
