"""The progress of a job with a Stop button, and a lock for heavy work that is no job."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from app.dashboard.session.jobs import EVERY, Job
from app.text import wording

_TURN: Final = threading.Lock()  # one heavy computation of a page at a time in the whole process


@contextlib.contextmanager
def exclusive(doing: str, waiting: str) -> Iterator[None]:
    """Run heavy work of a page one at a time in the whole process, while the page says whether it waits or works.

    A page that the user leaves, or that runs again, stops waiting.
    """
    if get_script_run_ctx() is None:  # a download made on request: there is no page to show messages on
        with _TURN:
            yield
        return
    place = st.empty()
    while not _TURN.acquire(timeout=EVERY):
        place.info(waiting, icon=":material/hourglass_top:")  # also the point at which Streamlit ends an abandoned run
    try:
        place.empty()
        with st.spinner(doing):
            yield
    finally:
        _TURN.release()


def show_job(job: Job[Any], below: Callable[[], None] | None = None) -> None:
    """Draw the progress of a job, its place in the queue and a Stop button; when it ends, the page runs again.

    `below` draws the results so far, again at every update. Of a job that has ended only an error is drawn.
    """
    from app.dashboard.session.messages import plain, sentence

    if job.state == "failed":
        st.error(sentence(job.error))
    elif job.state == "stopped":
        st.info("Stopped.")
    if job.ended:
        return

    def part() -> None:
        if job.ended:
            st.rerun()
        bar, button = st.columns([6, 1], vertical_alignment="bottom")
        with bar:
            share = min(job.done / job.total, 1.0) if job.total else 0.0
            st.progress(share, text=plain(_words(job)))
        with button:
            if st.button("Stop", key=f"stop-{id(job)}", width="stretch", disabled=job._stop.is_set()):
                job.stop()
                st.rerun()
        if below is not None:
            below()

    st.fragment(part, run_every=EVERY)()


def _words(job: Job[Any]) -> str:
    place = job.place
    if place:
        others = "1 job" if place == 1 else f"{place} jobs"
        return f"{job.title}: waiting, number {place} in the queue ({others} before it)"
    if job._stop.is_set():
        return f"{job.title}: stopping"
    words = f"{job.title}: {job.text}" if job.text else job.title
    left = job.remaining()
    return words if left is None else f"{words}, about {wording.duration(left)} left"
