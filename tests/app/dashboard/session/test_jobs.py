"""One heavy job at a time for the whole process, in order, stoppable; and one model."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator

import pytest
from streamlit.testing.v1 import AppTest

from app.dashboard.session import jobs, loaded_model
from app.dashboard.session.jobs import Job
from treekv import TreeKVError


def until(condition: Callable[[], bool]) -> None:
    for _ in range(4000):
        if condition():
            return
        time.sleep(0.005)
    raise AssertionError("it never came true")


@pytest.fixture(autouse=True)
def own_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue of this test's own: jobs that tests of pages left behind may still run in the one of the process."""
    monkeypatch.setattr(jobs, "_QUEUE", jobs.Queue())


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Holds a job until it is set."""
    event = threading.Event()
    yield event
    event.set()


def test_jobs_run_one_at_a_time_in_their_order(gate: threading.Event) -> None:
    log: list[str] = []
    queue = jobs.Queue()

    def work(job: Job) -> str:
        log.append(f"{job.title} begins")
        gate.wait(300)
        log.append(f"{job.title} ends")
        return job.title

    made = [queue.submit(owner, owner, work) for owner in "abc"]
    until(lambda: made[0].state == "running")
    assert [job.state for job in made] == ["running", "waiting", "waiting"]
    assert [job.place for job in made] == [0, 1, 2]
    gate.set()
    until(lambda: all(job.ended for job in made))
    assert log == [f"{name} {what}" for name in "abc" for what in ("begins", "ends")]
    assert [(job.state, job.result, job.place) for job in made] == [("done", name, 0) for name in "abc"]


def test_what_work_leaves_in_cycles_is_collected_when_it_has_ended() -> None:
    class Large:
        pass

    left: list[weakref.ref[Large]] = []

    def work(job: Job[None]) -> None:
        large = Large()
        large.itself = large
        left.append(weakref.ref(large))

    gc.disable()
    try:
        jobs.submit("", "leaves a cycle", work)
        until(lambda: bool(left) and left[0]() is None)
    finally:
        gc.enable()


def test_work_tells_how_far_it_is(gate: threading.Event) -> None:
    def work(job: Job) -> None:
        job.events.append("token")
        job.report(3, 7, "three of seven")
        gate.wait(300)
        job.report(4, 7)

    job = jobs.Queue().submit("a", "count", work)
    until(lambda: job.done == 3)
    assert (job.total, job.text, job.events) == (7, "three of seven", ["token"])
    gate.set()
    until(lambda: job.ended)
    assert (job.done, job.text) == (4, "three of seven")


def test_a_running_job_stops_at_its_next_step(gate: threading.Event) -> None:
    def work(job: Job) -> None:
        gate.wait(300)
        job.step(1, 2)
        raise AssertionError("it went on")

    job = jobs.Queue().submit("a", "stops", work)
    until(lambda: job.state == "running")
    job.stop()
    gate.set()
    until(lambda: job.ended)
    assert (job.state, job.result, job.error) == ("stopped", None, "")


def test_what_stopped_work_returns_is_kept() -> None:
    def work(job: Job) -> str:
        until(job.stopped)
        return "half"

    job = jobs.Queue().submit("a", "stops", work)
    job.stop()
    until(lambda: job.ended)
    assert job.state == "stopped"
    assert job.result in (None, "half")  # None when it was stopped before it began


def test_a_waiting_job_stops_at_once_and_the_next_moves_up(gate: threading.Event) -> None:
    queue = jobs.Queue()
    first, second, third = (queue.submit("a", name, lambda job: gate.wait(300)) for name in "abc")
    until(lambda: first.state == "running")
    second.stop()
    assert (second.state, second.place, third.place) == ("stopped", 0, 1)
    gate.set()
    until(lambda: third.ended)
    assert third.state == "done"
    assert second.result is None


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (TreeKVError("the text has 3 tokens; give more"), "the text has 3 tokens; give more"),
        (RuntimeError("/home/secret"), "An unexpected error occurred (RuntimeError)"),
        (MemoryError(), "There is not enough memory"),
    ],
)
def test_a_failure_is_one_sentence_and_the_next_job_runs(error: Exception, words: str) -> None:
    queue = jobs.Queue()

    def work(job: Job) -> None:
        raise error

    failed, after = queue.submit("a", "fails", work), queue.submit("a", "after", lambda job: 5)
    until(lambda: after.ended)
    assert failed.state == "failed"
    assert words in failed.error
    assert "secret" not in failed.error
    assert after.result == 5


def test_the_queue_is_bounded(gate: threading.Event) -> None:
    queue = jobs.Queue()
    first = queue.submit("a", "runs", lambda job: gate.wait(300))
    until(lambda: first.state == "running")
    for _ in range(jobs.MOST_WAITING):
        queue.submit("a", "waits", lambda job: None)
    with pytest.raises(TreeKVError, match="16 jobs are already waiting"):
        queue.submit("a", "too many", lambda job: None)


def test_a_session_that_goes_away_takes_its_job_along(monkeypatch: pytest.MonkeyPatch) -> None:
    here = {"a", "b"}

    class Runtime:
        def is_active_session(self, session: str) -> bool:
            return session in here

    monkeypatch.setattr(jobs.runtime, "exists", lambda: True)
    monkeypatch.setattr(jobs.runtime, "get_instance", Runtime)
    monkeypatch.setattr(jobs, "GRACE", 0.05)
    queue = jobs.Queue()

    def work(job: Job) -> None:
        until(job.stopped)

    job, other = queue.submit("a", "left alone", work), queue.submit("b", "stays", lambda job: job.stopped())
    until(lambda: job.state == "running")
    here.remove("a")
    until(lambda: other.ended)
    assert job.state == "stopped"
    assert (other.state, other.result) == ("done", False)


def test_a_job_that_makes_something_goes_on_without_its_session_and_is_found(
    gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs.runtime, "exists", lambda: True)
    monkeypatch.setattr(
        jobs.runtime, "get_instance", lambda: type("NoSessions", (), {"is_active_session": lambda *_: 0})()
    )
    monkeypatch.setattr(jobs, "GRACE", 0.0)

    def work(job: Job) -> bool:
        gate.wait(300)
        return job.stopped()

    left = jobs.submit("gone", "left alone", work, makes="runs")
    waits = jobs.submit("gone", "waits", work, makes="runs")
    jobs.submit("gone", "of a page", work)
    until(lambda: left.state == "running")
    assert jobs.making("runs") == [left, waits]
    assert jobs.making("losses") == []
    gate.set()
    until(lambda: waits.ended)
    assert (left.state, left.result, waits.state, waits.result) == ("done", False, "done", False)
    until(lambda: jobs.making("runs") == [])


def test_the_time_left_follows_from_the_pace_so_far(gate: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    job = jobs.Queue().submit("a", "counts", lambda job: gate.wait(300))
    assert job.remaining() is None
    until(lambda: job._begun is not None)
    now = job._begun
    monkeypatch.setattr(jobs.time, "monotonic", lambda: now + 60)
    assert job.remaining() is None  # nothing was reported
    job.report(1, 100)
    assert job.remaining() is None  # too little to say
    job.report(25, 100)
    assert job.remaining() == pytest.approx(180)
    assert "about 3 min left" in shown(job).get("progress")[0].proto.text
    job.report(100, 100)
    assert job.remaining() == 0
    gate.set()
    until(lambda: job.ended)
    assert job.remaining() is None


def page() -> None:
    import streamlit as st

    st.write("page runs")
    from app.dashboard.widgets.job_progress import show_job

    show_job(st.session_state["job"])


def shown(job: Job) -> AppTest:
    test = AppTest.from_function(page, default_timeout=120)
    test.session_state["job"] = job
    test.run()
    assert not test.exception
    return test


def test_the_page_shows_the_place_the_progress_and_a_stop_button(
    gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "SAYS_LITTLE", (2.0, 0.0))  # no time left, however slow the machine is

    def work(job: Job) -> None:
        job.report(1, 4, "layer *1*")
        gate.wait(300)
        job.step(2, 4)

    queue = jobs.Queue()
    running, waiting = queue.submit("a", "Capturing", work), queue.submit("a", "More", lambda job: None)
    until(lambda: running.done == 1)
    bar = shown(running).get("progress")[0].proto
    assert (bar.value, bar.text) == (25, r"Capturing\: layer \*1\*")
    test = shown(waiting)
    assert "number 1 in the queue" in test.get("progress")[0].proto.text
    test.button[0].click().run()
    assert waiting.state == "stopped"
    assert test.info[0].value == "Stopped."
    shown(running).button[0].click().run()
    gate.set()
    until(lambda: running.ended)
    assert running.state == "stopped"


def test_a_failed_job_shows_its_sentence_as_plain_text() -> None:
    def work(job: Job) -> None:
        raise TreeKVError("there is no model '![x](http://a)'")

    job = jobs.Queue().submit("a", "fails", work)
    until(lambda: job.ended)
    assert shown(job).error[0].value == r"There is no model '\!\[x\]\(http\://a\)'\."


def test_one_model_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []

    def load_model(name: str) -> tuple[str, str]:
        if name == "bad":
            raise TreeKVError("there is no model 'bad'")
        loaded.append(name)
        return name, "tokenizer"

    monkeypatch.setattr(loaded_model.treekv, "load_model", load_model)
    loaded_model._load.clear()
    monkeypatch.setattr(loaded_model, "_name", None)
    assert loaded_model.get("one") == ("one", "tokenizer")
    loaded_model.get("one")
    assert loaded == ["one"]
    loaded_model.get("two")
    loaded_model.get("one")
    assert loaded == ["one", "two", "one"]
    with pytest.raises(TreeKVError, match="no model 'bad'"):
        loaded_model.get("bad")
    loaded_model.get("one")
    assert loaded == ["one", "two", "one", "one"]
    loaded_model._load.clear()
