"""Run measurements on Ray, in several processes of this machine or on a cluster."""

from __future__ import annotations

import collections
import contextlib
import logging
import os
import socket
from collections.abc import Iterable, Iterator
from typing import Any, Final

from analysis.evaluation.sweep.grid import ModelSpec
from analysis.evaluation.sweep.records import Record
from analysis.evaluation.sweep.runner import CellJob, Load, Runner, load, one_line
from analysis.evaluation.tasks.base import Document, Task
from analysis.progress import Progress
from treekv.errors import TreeKVError

_ATTEMPTS: Final = 2  # a document whose worker dies is retried once, on a new worker
_CONNECT_TIMEOUT: Final = 10.0  # seconds
_POLL: Final = 1.0  # seconds between polls of the workers, so that Ctrl-C is handled soon


class RayWorkers:
    """Measures in `workers` processes, each with one model at a time; only this process writes records.

    A worker that dies is replaced and its document retried once; if that worker dies too, the failure is recorded.

    Args:
        workers: number of processes; None for as many as the cluster has room for.
        address: of a running cluster, as `ray.init` takes it; None starts Ray on this machine.
        gpus: GPUs reserved by each worker; with several, `device: auto` in the model spreads its layers over them.
        load: loads a model in the worker.

    Raises:
        TreeKVError: Ray is not installed, cannot be reached, or has no room for a worker.
    """

    def __init__(
        self, workers: int | None = None, address: str | None = None, gpus: float = 0, load: Load = load
    ) -> None:
        try:
            import ray
        except ImportError as error:
            raise TreeKVError("several workers need Ray, which is not installed: pip install 'treekv[ray]'") from error
        if workers is not None and workers < 1:
            raise TreeKVError(f"workers must be at least 1, got {workers}")
        self._ray: Any = ray
        self._load = load
        self._needs = {"num_cpus": 1, "num_gpus": gpus}
        self._actors: list[Any] = []
        _start(ray, workers, address)
        try:
            count = workers or self._room()
            if self._room() < 1:
                raise TreeKVError(f"the cluster has no room for a worker: each needs 1 core and {gpus:g} GPUs")
            self._actors = [self._new() for _ in range(min(count, self._room()))]
        except BaseException:
            ray.shutdown()
            raise

    def documents(self, model: ModelSpec, task: Task) -> list[Document]:
        """The documents of a task, listed by a worker: this process loads no model."""
        fault: Exception
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                found: list[Document] = self._ray.get(self._actors[0].documents.remote(model, task))
                return found
            except self._ray.exceptions.RayActorError as error:
                self._actors[0] = self._new()
                fault = TreeKVError(f"the worker process died {attempt} times: {_cause(error)}")
            except self._ray.exceptions.RayTaskError as error:
                fault = error.cause if isinstance(error.cause, Exception) else error
                break
        raise fault

    def records(self, batches: Iterable[list[CellJob]], progress: Progress | None = None) -> Iterator[Record]:
        """Records in order of completion. `progress` is not called, since several measurements run at once."""
        waiting = collections.deque((jobs, 1) for jobs in batches)
        idle = list(range(len(self._actors)))
        busy: dict[Any, tuple[int, list[CellJob], int]] = {}
        while waiting or busy:
            while waiting and idle:
                jobs, attempt = waiting.popleft()
                place = idle.pop()
                busy[self._actors[place].measure.remote(jobs)] = (place, jobs, attempt)
            ready, _ = self._ray.wait(list(busy), num_returns=1, timeout=_POLL)
            for made in ready:
                place, jobs, attempt = busy.pop(made)
                try:
                    yield from self._ray.get(made)
                except self._ray.exceptions.RayActorError as error:
                    self._actors[place] = self._new()
                    if attempt == _ATTEMPTS and len(jobs) == 1:
                        yield jobs[0].failed(f"the worker process died {attempt} times: {_cause(error)}")
                    else:  # one by one, so that only the document at fault fails
                        again = attempt + 1 if len(jobs) == 1 else 1
                        waiting.extendleft(([job], again) for job in reversed(jobs))
                except self._ray.exceptions.RayError as error:
                    yield from (job.failed(one_line(error)) for job in jobs)
                idle.append(place)

    def close(self) -> None:
        """Stop the workers, and Ray if it was started for them."""
        for actor in self._actors:
            with contextlib.suppress(Exception):
                self._ray.kill(actor)
        self._ray.shutdown()

    def _new(self) -> Any:
        return self._ray.remote(Runner).options(**self._needs, max_restarts=0).remote(self._load)

    def _room(self) -> int:
        there = self._ray.cluster_resources()
        room = int(there.get("CPU", 0))
        return min(room, int(there.get("GPU", 0) // self._needs["num_gpus"])) if self._needs["num_gpus"] else room


def _start(ray: Any, workers: int | None, address: str | None) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address is not None:
        _check_reachable(address)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address is None:
            ray.init(num_cpus=workers, include_dashboard=False, address="local", **quiet)
        else:
            ray.init(address=address, **quiet)
    except Exception as error:  # Ray raises ConnectionError, RuntimeError, ValueError and its own types
        where = "on this machine" if address is None else f"at {address!r}"
        raise TreeKVError(f"Ray cannot be started {where}: {one_line(error)}") from error


def _check_reachable(address: str) -> None:
    """Fail fast if the address does not respond: Ray itself would retry for many minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon:
        return  # a keyword of Ray, such as "auto"
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_TIMEOUT).close()
    except (OSError, ValueError, OverflowError) as error:
        raise TreeKVError(f"Ray cannot be reached at {address!r}: {one_line(error)}") from error


def _cause(error: BaseException) -> str:
    """The last non-empty line of Ray's long explanation."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
