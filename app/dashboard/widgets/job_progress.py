"""How far a job is, with a Stop button, and one heavy computation at a time for pages that need no job."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from app.dashboard.session.jobs import EVERY, Job

_TURN: Final = threading.Lock()  # one heavy computation of a page at a time in the whole process


@contextlib.contextmanager
def exclusive(doing: str, waiting: str) -> Iterator[None]:
    """For heavy work in a page itself: one at a time in the whole process. The page says whether it waits or works.

    A page that is left, or run again, while it waits gives its place up.
    """
    if get_script_run_ctx() is None:  # a download that is made when it is asked for: there is no page to say it on
        with _TURN:
            yield
        return
    place = st.empty()
    while not _TURN.acquire(timeout=EVERY):
        place.info(waiting, icon=":material/hourglass_top:")  # also where streamlit ends a run that nobody waits for
    try:
        place.empty()
        with st.spinner(doing):
            yield
    finally:
        _TURN.release()


def show_job(job: Job[Any], below: Callable[[], None] | None = None) -> None:
    """Draw how far a job is, its place in the queue and a Stop button; when it ends, the page runs again.

    `below` draws what the work has given so far, again at every look. Of a job that has ended, draw only what went
    wrong.
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
        return f"{job.title}: waits, number {place} in the queue ({others} before it)"
    if job._stop.is_set():
        return f"{job.title}: stopping"
    return f"{job.title}: {job.text}" if job.text else job.title
