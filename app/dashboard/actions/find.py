"""What was forgotten: a search for a phrase, and the evictions that were most costly."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import streamlit as st
import xarray as xr

import analysis
from analysis import plot
from app.dashboard.session import jobs
from app.dashboard.session.messages import or_stop, plain, sentence
from app.dashboard.session.run import open_capture
from app.dashboard.session.view import follow
from app.dashboard.widgets.figure import draw_figure
from app.dashboard.widgets.job_progress import show_job
from app.runs import folder as run_folder
from app.runs.folder import RunFolder
from app.text import captions
from treekv import TreeKVError

REGRET_JOB: Final = "regret-job"  # in the session: what was asked for, and the job
_AROUND: Final = 4  # tokens before and after a place of the text that are quoted with it


def section(run: RunFolder, data: xr.Dataset, policy: str, on_head: Callable[[int, int], None], is_real: bool) -> None:
    """The search over all policies of the record `data`, and the list of one of them, by their titles."""
    st.subheader("Find what was forgotten")
    # Side by side on a wide page, one below the other on a narrow one.
    half = "[data-testid=stLayoutWrapper]:has(> [class*=st-key-find-])"
    st.html(f"<style>{half}{{min-width: min(26rem, 100%)}}</style>")
    row = st.container(horizontal=True, gap="large")
    left, right = (row.container(key=f"find-{name}", width="stretch") for name in ("phrase", "regret"))
    with left:
        st.fragment(partial(search, data, on_head))()
    with right:
        if is_real:
            st.caption("The most costly evictions are listed for policies that are simulated on the text of the run.")
        else:
            regrets(run, data, policy)


def search(data: xr.Dataset, on_head: Callable[[int, int], None]) -> None:
    """When each policy forgot a phrase, in one sentence and one picture."""
    follow()
    phrase = st.text_input(
        "A word or phrase of the text",
        key="phrase",
        bind="query-params",
        persist_state="session",
        placeholder="a name, a number, a term",
        help="A phrase is forgotten when none of its tokens is kept.",
    )
    if not (phrase or "").strip():
        st.caption("It says when each policy forgot it, layer by layer and head by head.")
        return
    try:
        found = analysis.forgotten(data, phrase)
    except TreeKVError as error:
        st.info(sentence(error))
        return
    number = 0
    count = found.sizes["occurrence"]
    if count > 1:
        if st.session_state.get("occurrence", 0) not in range(count):
            del st.session_state["occurrence"]
        places = f"{count:,} places in the text"
        place = partial(_place, data, found)
        number = st.selectbox(places, range(count), format_func=place, key="occurrence") or 0
    st.markdown(f"**{plain(analysis.forgotten_in_words(found, number))}**")
    draw_figure(
        lambda: plot.forgotten(found.isel(occurrence=[number])),
        f"{captions.FORGOTTEN} {captions.CLICK}",
        key="forgotten",
        on_head=on_head,
    )


def _place(data: xr.Dataset, found: xr.Dataset, number: int) -> str:
    """A place of the text, with the words around it."""
    first, last = (int(found[name].values[number]) for name in ("first", "last"))
    words = "".join(str(token) for token in data["token"].values[max(first - _AROUND, 0) : last + 1 + _AROUND])
    return f"{first:,}: \u2026{' '.join(words.split())}\u2026"


def regrets(run: RunFolder, data: xr.Dataset, policy: str) -> None:
    """The most costly evictions in words, found by a job on request."""
    st.markdown("**Most costly evictions**, by what they would have cost had nothing else been evicted")
    if not run.has(run_folder.CAPTURE):
        st.caption("They need the run's capture, which is missing.")
        return
    asked = st.session_state.get(REGRET_JOB)
    key = (str(run.path), policy)
    if asked is not None and asked[0] != key:
        asked = None
    if asked is None or (asked[1].ended and asked[1].result is None):
        if st.button(f"List those of {policy}", key="list-regrets", help="It reads the capture, with all its layers."):
            title = "Looking for the most costly evictions"
            work = partial(_find_regrets, run=run, record=data.sel(policy=[policy]), policy=policy)
            asked = or_stop(lambda: (key, jobs.submit(jobs.owner(), title, work)))
            st.session_state[REGRET_JOB] = asked
        else:
            st.caption(
                "They follow from the gradients of the loss, which a run has for models of up to a billion parameters."
            )
    if asked is None:
        return
    show_job(asked[1])
    if asked[1].result is not None:
        for line in asked[1].result or ["Nothing was evicted."]:
            st.markdown(f"- {plain(line)}")


def _find_regrets(job: jobs.Job[list[str]], run: RunFolder, record: xr.Dataset, policy: str) -> list[str]:
    captured = open_capture(run)
    return analysis.most_costly(captured, record, analysis.regret(captured, record, job.step), policy)
