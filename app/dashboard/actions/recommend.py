"""The recommendation as a job: what to aim at, the reasons, and a button that applies it."""

from __future__ import annotations

from typing import Any, Final

import streamlit as st

import analysis
from analysis.recommendation.decisions import DEFAULT_QUESTIONS, QUESTIONS
from analysis.recommendation.recommend import SMALLEST
from app.dashboard.session import jobs
from app.dashboard.session.messages import or_stop, plain
from app.dashboard.session.settings import COMPARED, MOST_COMPARED, choose_settings, set_compared
from app.dashboard.widgets.figure import draw_figure
from app.dashboard.widgets.job_progress import show_job
from app.dashboard.widgets.settings_editor import TAKEN
from app.runs.folder import RunFolder
from app.text import captions, wording

# Keys in the session: the job, and the folder of the run that it is about.
JOB: Final = "recommendation-job"
JOB_RUN: Final = "recommendation-run"
TOKENS, BYTES, MASS, ERROR = GOALS = ("Tokens to keep", "Bytes to keep", "Attention to retain", "Error to allow")
QUESTION_TITLES: Final = {
    "sinks": "number of sinks",
    "scope": "competing neighbours",
    "recent": "number of recent tokens",
    "layers": "budget per layer",
    "block": "block size of the prompt",
}


def section(run: RunFolder, captured: analysis.Capture) -> None:
    """The goal, the button, and the recommendation below them."""
    st.subheader("Recommendation")
    st.markdown(
        "State a budget or a target. Candidate settings are simulated on this text, and each choice is explained."
    )
    goal = st.segmented_control("Goal", GOALS, default=TOKENS, required=True, key="goal")
    left, right = st.columns(2)
    with left:
        wanted = _wanted(str(goal), captured)
    with right:
        questions = st.multiselect(
            "What may differ from the paper's settings",
            QUESTIONS,
            default=DEFAULT_QUESTIONS,
            key="questions",
            format_func=QUESTION_TITLES.__getitem__,
        )
    if st.button("Recommend", key="recommend"):
        st.session_state[JOB] = or_stop(
            lambda: jobs.submit(
                jobs.owner(), "Recommendation", lambda job: _work(job, captured, wanted, list(questions))
            )
        )
        st.session_state[JOB_RUN] = str(run.path)
    job = st.session_state.get(JOB)
    if job is None or st.session_state.get(JOB_RUN) != str(run.path):
        return
    show_job(job)
    if job.result is not None:
        _show(job.result)


def _wanted(goal: str, captured: analysis.Capture) -> dict[str, Any]:
    """The arguments of `analysis.recommend` for a goal, from one number input."""
    if goal == TOKENS:
        most = max(captured.tokens // 2, SMALLEST)
        budget = st.number_input(
            "Tokens per layer and head", SMALLEST, None, max(most // 4, SMALLEST), 8, key="goal-tokens"
        )
        return {"budget": int(budget)}
    if goal == BYTES:
        size = st.number_input("Megabytes of keys and values", 0.0, None, 4.0, 0.5, key="goal-bytes")
        return {"max_bytes": int(size * 1e6)}
    share = st.number_input(
        "Per cent", 0.0, 100.0, 90.0 if goal == MASS else 20.0, 1.0, key=f"goal-{GOALS.index(goal)}"
    )
    return {"target": {"mass" if goal == MASS else "error": share / 100}}


def _work(
    job: jobs.Job[analysis.Recommendation], captured: analysis.Capture, wanted: dict[str, Any], questions: list[str]
) -> analysis.Recommendation:
    return analysis.recommend(captured, questions=questions, progress=job.step, **wanted)


def _show(choice: analysis.Recommendation) -> None:
    config = choice.config
    parts = f"{config.sink_size} sinks, {config.recent_size:,} recent, {config.region_size:,} in the tree"
    memory = wording.size(int(choice.reasons.attrs["bytes"]))
    st.success(f"{config.cache_size:,} tokens: {parts}; {memory} of keys and values.")
    for sentence in choice.sentences:
        st.markdown(f"- {plain(sentence)}")
    st.button(
        "Use the recommendation",
        key="take-recommendation",
        type="primary",
        on_click=_take,
        args=(choice,),
        help="Generate and Take away then use it, and it joins the comparison if there is room.",
    )
    draw_figure(lambda: choice.figure, captions.RECOMMENDATION, key="recommendation")


def _take(choice: analysis.Recommendation) -> None:
    choose_settings(choice.config)
    configs = list(st.session_state.get(COMPARED, []))
    if choice.config not in configs:
        set_compared([*configs[: MOST_COMPARED - 1], choice.config])
    st.session_state[TAKEN] = True
