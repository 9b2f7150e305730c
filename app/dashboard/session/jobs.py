"""The queue of heavy work of all sessions: one job at a time in the whole process, first come, first served.

Short work that a page needs before it can draw, such as a simulation of a second, is no job: see
`widgets.job_progress.exclusive`.
"""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

from streamlit import runtime
from streamlit.runtime.scriptrunner import get_script_run_ctx

from treekv.errors import TreeKVError

T = TypeVar("T")
MOST_WAITING: Final = 16
GRACE: Final = 5.0  # seconds that a session may be disconnected before its jobs are stopped
EVERY: Final = 0.5  # seconds between two updates of a job's progress
SAYS_LITTLE: Final = (0.05, 3.0)  # share of the work, and seconds, from which on the pace says when it will end
ENDED: Final = ("done", "stopped", "failed")

_log = logging.getLogger(__name__)


class Stopped(Exception):
    """Raised by `Job.step` to end the work of a job that has to stop."""


class Job(Generic[T]):
    """One piece of heavy work and its progress.

    Attributes:
        owner, title: the id of the session that started it, and its name.
        makes: what it leaves on the disk, by which other sessions find it; it then goes on when its session ends. ""
            for one that ends with its session.
        state: "waiting", "running", "done", "stopped" or "failed".
        done, total, text: the progress last reported, in any unit; `total` is 0 before the first report.
        events: a list to which the work can append, such as tokens.
        result: what the work returned, which it can do even when it was stopped.
        error: one sentence if it failed.
    """

    def __init__(self, owner: str, title: str, work: Callable[[Job[T]], T], queue: Queue, makes: str = "") -> None:
        self.owner, self.title, self.makes = owner, title, makes
        self.state = "waiting"
        self.done: float = 0
        self.total: float = 0
        self.text = ""
        self.events: list[Any] = []
        self.result: T | None = None
        self.error = ""
        self._work: Callable[[Job[T]], T] | None = work
        self._queue = queue
        self._stop = threading.Event()
        self._away_since: float | None = None
        self._begun: float | None = None

    @property
    def place(self) -> int:
        """Place in the queue, 1 for the next; 0 when it runs or has ended."""
        return self._queue.place(self)

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    def remaining(self) -> float | None:
        """Seconds until it ends if it goes on as fast as so far; None while that says little."""
        if self.state != "running" or self._begun is None or not self.total:
            return None
        share, passed = min(self.done / self.total, 1.0), time.monotonic() - self._begun
        least, soonest = SAYS_LITTLE
        return None if share < least or passed < soonest else passed * (1 - share) / share

    def report(self, done: float, total: float, text: str | None = None) -> None:
        """Called by the work to report its progress."""
        self.done, self.total = done, total
        if text is not None:
            self.text = text

    def step(self, done: float, total: float, text: str | None = None) -> None:
        """Called by the work to report its progress; raises Stopped when the job has to stop."""
        self.report(done, total, text)
        if self.stopped():
            raise Stopped

    def stop(self) -> None:
        """Ask the work to stop; a waiting job ends at once."""
        self._stop.set()
        self._queue.drop(self)

    def stopped(self) -> bool:
        """Whether the work has to stop, because it was asked to or its session ended."""
        if self._abandoned():
            self._stop.set()
        return self._stop.is_set()

    def _abandoned(self) -> bool:
        if self.makes or not runtime.exists() or runtime.get_instance().is_active_session(self.owner):
            self._away_since = None
            return False
        now = time.monotonic()
        if self._away_since is None:
            self._away_since = now
        return now - self._away_since >= GRACE

    def _run(self) -> None:
        """Called once, by the queue's thread."""
        work, self._work = self._work, None  # so that a text or a model that the work refers to can be freed
        assert work is not None
        self._begun = time.monotonic()
        try:
            if self.stopped():
                raise Stopped
            self.result = work(self)
            self.state = "stopped" if self._stop.is_set() else "done"
        except Stopped:
            self.state = "stopped"
        except TreeKVError as error:
            self.error, self.state = str(error), "failed"
        except MemoryError:
            self.error = "There is not enough memory; use fewer tokens, fewer layers or a smaller model."
            self.state = "failed"
        except BaseException as error:  # any error: otherwise the thread would end and the queue stop
            _log.exception("the job %r failed", self.title)
            kind = type(error).__name__
            self.error = f"An unexpected error occurred ({kind}); see the log of the server."
            self.state = "failed"


class Queue:
    """Jobs in order of submission, one at a time, on a thread that exists while there are any."""

    def __init__(self) -> None:
        self._waiting: deque[Job[Any]] = deque()
        self._running: Job[Any] | None = None
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def submit(self, owner: str, title: str, work: Callable[[Job[T]], T], makes: str = "") -> Job[T]:
        """Add a job. Raises TreeKVError when too many are waiting."""
        job = Job(owner, title, work, self, makes)
        with self._lock:
            if len(self._waiting) >= MOST_WAITING:
                raise TreeKVError(f"{MOST_WAITING} jobs are already waiting; try again later")
            self._waiting.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="treekv-jobs", daemon=True)
                self._thread.start()
        return job

    def making(self, what: str) -> list[Job[Any]]:
        """The jobs that run or wait and make this, in their order."""
        with self._lock:
            every = [*([] if self._running is None else [self._running]), *self._waiting]
        return [job for job in every if job.makes == what]

    def place(self, job: Job[Any]) -> int:
        with self._lock:
            return self._waiting.index(job) + 1 if job in self._waiting else 0

    def drop(self, job: Job[Any]) -> None:
        """Remove a job that is still waiting."""
        with self._lock:
            if job in self._waiting:
                self._waiting.remove(job)
                job.state = "stopped"

    def _work(self) -> None:
        while True:
            with self._lock:
                self._running = None
                if not self._waiting:
                    self._thread = None
                    return
                job = self._running = self._waiting.popleft()
                job.state = "running"
            job._run()
            with self._lock:
                self._running = None
            del job  # otherwise its result would stay in memory until the next one
            gc.collect()  # reference cycles can be large, and an idle process does not collect them


_QUEUE: Final = Queue()


def owner() -> str:
    """The id of the session that runs this page."""
    context = get_script_run_ctx()
    return "" if context is None else context.session_id


def making(what: str) -> list[Job[Any]]:
    """The jobs of all sessions that run or wait and make this (see `submit`), in their order."""
    return _QUEUE.making(what)


def submit(owner: str, title: str, work: Callable[[Job[T]], T], makes: str = "") -> Job[T]:
    """Add a job to the queue of the process.

    Args:
        owner: the session's id, see `owner()`; when the session ends, the job is stopped, unless it makes something.
        title: what the user sees.
        makes: what the work leaves on the disk, by which `making` finds the job; "" for nothing.
        work: called with the job on another thread. It has to check `job.stopped()` now and then, or to call
            `job.step(done, total, text)`, which ends it too; Streamlit's functions do not work there.

    Raises:
        TreeKVError: too many jobs are waiting.
    """
    return _QUEUE.submit(owner, title, work, makes)
