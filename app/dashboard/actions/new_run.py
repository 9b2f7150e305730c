"""The form of a new run on the page Start, and the job that makes it."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Final, NamedTuple

import streamlit as st

from app.dashboard.actions import make_run
from app.dashboard.actions.make_run import RunRequest
from app.dashboard.pages import UPLOAD_MB, runs_root
from app.dashboard.session import jobs, loaded_model
from app.dashboard.session.messages import or_stop, plain, sentence
from app.dashboard.session.run import open_run
from app.dashboard.widgets.job_progress import show_job
from app.runs import folder as run_folder
from app.runs.sample_text import sample_text
from app.text import wording
from app.text.inputs import uploaded_text
from treekv import TreeKVError

SAMPLE, PASTE, UPLOAD = "Sample", "Paste", "Upload"
SAMPLE_TITLE: Final = "Python's own language reference"
AUTOMATIC: Final = "Automatic"
# In the session: the job of the run that it is making, and those of other tabs that it shows.
MAKING: Final = "making"
FOLLOWED: Final = "followed"
RUNS: Final = "runs"  # what these jobs make
GRADIENTS: Final = {AUTOMATIC: None, "Capture": True, "Leave out": False}


class ChosenText(NamedTuple):
    """A text and its title; `wrong` says in one sentence what is wrong with an uploaded file, or is empty."""

    title: str
    text: str
    wrong: str = ""


def chosen_texts() -> list[ChosenText]:
    """One, but of uploaded files as many as there are."""
    source = st.segmented_control(
        "Text", [SAMPLE, PASTE, UPLOAD], default=SAMPLE, required=True, key="source", persist_state="session"
    )
    if source == SAMPLE:
        st.caption("English prose that comes with every Python: its language reference.")
        return [ChosenText(SAMPLE_TITLE, sample_text())]
    if source == PASTE:
        pasted = st.text_area("Your text", key="pasted", height=180, persist_state="session")
        return [ChosenText("Pasted text", pasted or "")]
    # Of any kind, so that the page says what is wrong with the others; a browser's own list would hide them.
    files = st.file_uploader(
        f"Text files, at most {UPLOAD_MB} MB each; each becomes a run, and Wavelets takes them together",
        key="uploaded",
        max_upload_size=UPLOAD_MB,
        accept_multiple_files=True,
    )
    return [read(file.name, file.getvalue()) for file in files] or [ChosenText("", "")]


def read(name: str, content: bytes) -> ChosenText:
    try:
        return ChosenText(name, uploaded_text(content, repr(name)))
    except TreeKVError as error:
        return ChosenText(name, "", str(error))


def request_form() -> tuple[list[RunRequest], str]:
    """What the form asks for, a run for each text, and what is wrong with one, in one sentence; empty if nothing is."""
    model = st.selectbox(
        "Model",
        make_run.model_names(),
        format_func=make_run.model_title,
        accept_new_options=True,
        key="model",
        persist_state="session",
        help="An installed model; or enter a local folder, a GGUF file or a hub id such as owner/model. Code from "
        "model repositories is never run.",
    )
    texts = chosen_texts()
    wrong = next((text.wrong for text in texts if text.wrong), "")
    if wrong:
        st.error(sentence(wrong))
    left, right = st.columns(2)
    tokens = left.number_input(
        "Tokens",
        value=1024,
        step=256,
        key="tokens",
        persist_state="session",
        help="Use at most this many tokens of the text.",
    )
    cache_size = right.number_input(
        "Budget",
        value=64,
        step=16,
        key="budget",
        persist_state="session",
        help="How many tokens each policy keeps, per layer and KV head.",
    )
    policies = st.multiselect(
        "Policies",
        make_run.policy_names(),
        default=["tree", "streaming"],
        format_func=wording.policy_title,
        key="simulated",
        persist_state="session",
    )
    choice = st.segmented_control(
        "Gradients of the loss",
        list(GRADIENTS),
        default=AUTOMATIC,
        required=True,
        key="sensitivity",
        persist_state="session",
        help="One backward pass says what each head and token is worth; the recommendation needs it. It takes a few "
        "times as long as reading the text. Automatic: for models of at most a billion parameters.",
    )
    with st.expander("More"):
        layers = st.text_input("Layers", key="layers", placeholder="all; or 0,5,10-12", persist_state="session")
        suggested: list[str] = []
        for title, _, _ in texts:
            short = "sample" if title == SAMPLE_TITLE else Path(title).stem or "text"
            suggested.append(make_run.free_name(runs_root(), model or "", short, int(tokens), suggested))
        names = suggested
        if len(texts) == 1:
            name = st.text_input("Name of the run", key="run_name", placeholder=suggested[0], persist_state="session")
            names = [name or suggested[0]]
    together = uuid.uuid4().hex if len(texts) > 1 else ""
    requests = [
        RunRequest(
            name,
            model or "",
            title,
            text,
            int(tokens),
            layers or "",
            int(cache_size),
            tuple(policies),
            GRADIENTS[str(choice)],
            together,
        )
        for name, (title, text, _) in zip(names, texts, strict=True)
    ]
    return requests, wrong


def forget_failed() -> None:
    """Drop a job that has failed or was stopped when another run is asked for, with its message."""
    job = st.session_state.get(MAKING)
    if job is not None and job.ended:
        del st.session_state[MAKING]


def make() -> None:
    """The progress of this session's run while it is made, else the form; and the runs that others are making."""
    job = st.session_state.get(MAKING)
    if job is not None and job.state == "done":
        del st.session_state[MAKING]
        st.session_state["made"] = job.result
        open_run(job.result[0])
        st.rerun()
    if job is not None:
        show_job(job)
        if not job.ended:
            st.caption("It goes on when you use other pages or close this one.")
            return
    follow_others(job)
    requests, wrong = request_form()
    expected = make_run.estimate(requests[0], run_folder.recent(runs_root()), len(requests))
    if expected:
        st.caption(plain(expected))
    label = "Make the run" if len(requests) == 1 else f"Make {len(requests)} runs"
    if st.button(label, key="make", type="primary", width="stretch", on_click=forget_failed, disabled=bool(wrong)):
        or_stop(lambda: make_run.check_all(requests, runs_root()))
        root = runs_root()
        st.session_state.pop("made", None)
        st.session_state[MAKING] = or_stop(
            lambda: jobs.submit(
                jobs.owner(),
                f"Making {requests[0].name}" + f" and {len(requests) - 1} more" * (len(requests) > 1),
                lambda job: make_run.make_all(requests, root, loaded_model.get, job),
                makes=RUNS,
            )
        )
        st.rerun()


def follow_others(own: jobs.Job[list[str]] | None) -> None:
    """The progress of runs that were asked for in other tabs, also in ones that are closed by now; then their ends."""
    followed = st.session_state.setdefault(FOLLOWED, [])
    followed += [job for job in jobs.making(RUNS) if job is not own and job not in followed]
    for job in followed:
        if job.state == "done":
            several = len(job.result) > 1
            runs = f"The runs {wording.listed(job.result)} were" if several else f"The run {job.result[0]} was"
            st.success(plain(f"{runs} made; {'they are' if several else 'it is'} among the recent ones."))
        else:
            show_job(job)
    st.session_state[FOLLOWED] = [job for job in followed if not job.ended]
