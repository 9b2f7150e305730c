"""The paper: its first three figures, the third first, since it explains the method without a model."""

from __future__ import annotations

import streamlit as st

from analysis import plot
from app.dashboard.actions import make_run, paper_figures, worked_example
from app.dashboard.actions.paper_figures import Measured, Request
from app.dashboard.session import jobs, loaded_model
from app.dashboard.session.messages import or_stop, plain, sentence
from app.dashboard.session.run import default_model, find_run
from app.dashboard.widgets.figure import draw_figure
from app.dashboard.widgets.job_progress import show_job
from app.runs import folder as run_folder
from app.text import captions
from treekv import TreeKVError

JOB, RESULT = "paper-measuring", "paper-measured"  # in the session


def request_form() -> Request | None:
    """What the user wants to measure, once the button is pressed."""
    run = find_run()
    suggested = default_model(run)
    names = list(dict.fromkeys([suggested, *make_run.model_names()]))
    with st.form("paper-figures", border=False):
        left, right = st.columns([3, 1])
        model = left.selectbox(
            "Model",
            names,
            format_func=make_run.model_title,
            accept_new_options=True,
            key="paper-model",
            persist_state="session",
        )
        windows = right.number_input(
            "Windows",
            paper_figures.LEAST_WINDOWS,
            paper_figures.MOST_WINDOWS,
            paper_figures.WINDOWS,
            key="paper-windows",
            persist_state="session",
            help="Of 512 tokens of the sample text, for figure 2; the paper has 2,000.",
        )
        pressed = st.form_submit_button("Measure figures 1 and 2", type="primary", on_click=_forget_failed)
    if not pressed:
        return None
    capture = None
    if run is not None and run.has(run_folder.CAPTURE):
        capture = or_stop(lambda: run.file(run_folder.CAPTURE))
    return Request(model or "", int(windows), capture)


def _forget_failed() -> None:
    """Drop a job that has failed or was stopped when figures are asked for again, with its message."""
    job = st.session_state.get(JOB)
    if job is not None and job.ended and job.result is None:
        del st.session_state[JOB]


def measured(found: Measured) -> None:
    request = found.request
    whose = "the text of the open run" if request.capture is not None else "the sample text"
    draw_figure(lambda: plot.distribution_maps(found.figure1), captions.PAPER_FIGURE_1, key="paper-1")
    st.caption(
        f"Figure 1 on {whose}, a quarter of its {found.figure1.attrs['tokens']:,} tokens kept; the paper: 128 of 512."
    )
    draw_figure(lambda: plot.paper_bands(found.figure2), captions.PAPER_FIGURE_2, key="paper-2")
    st.caption(
        f"Figure 2 on {request.windows} windows of the sample text with {plain(request.model)}; the paper: 2,000."
    )


def on_a_model() -> None:
    """Figures 1 and 2: the form, the job, and what it measured last."""
    job: jobs.Job[Measured] | None = st.session_state.get(JOB)
    if job is not None:
        if job.result is not None:
            st.session_state[RESULT] = job.result
        show_job(job)
        if not job.ended:
            st.caption("You can use other pages meanwhile; closing the tab stops the job.")
            return
    request = request_form()
    if request is not None:
        or_stop(lambda: paper_figures.check(request))
        st.session_state[JOB] = or_stop(
            lambda: jobs.submit(
                jobs.owner(), "Measuring", lambda job: paper_figures.measure(request, loaded_model.get, job)
            )
        )
        st.rerun()
    if RESULT in st.session_state:
        measured(st.session_state[RESULT])
    else:
        st.info("Nothing measured yet. Choose a model and press the button; more windows take longer.")


st.title("The paper")
st.subheader("How TreeKV works (figure 3)")
st.markdown(worked_example.METHOD)
worked_example.check_link()
try:
    steps = worked_example.choose()
except TreeKVError as error:
    st.error(sentence(error))
else:
    worked_example.show(steps, "word")
st.caption(
    "The evictions are those of the real cache, which does the same with tokens, in every head of every layer. The "
    "paper's figure has 17 tokens and a cache of 4, too; its cursor is back at the oldest token at steps 9, 13 and 17. "
    "Here no word is protected; in practice the first and the last tokens are never compared."
)
st.subheader("What policies keep, and why that can work (figures 1 and 2)")
st.markdown(
    "Figure 1 shows which tokens of a text three policies keep when nothing is protected. Figure 2 shows how much the "
    "last token's attention output varies from token to token, by frequency: if near tokens differ more than distant "
    "ones, the distant past can be kept coarsely."
)
on_a_model()
st.caption(
    "He, Yuan, Bai, Leng, Jiang: TreeKV: Smooth Key-Value Cache Compression with Tree Structures, IJCAI 2025, "
    "arXiv 2501.04987."
)
