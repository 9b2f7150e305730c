"""The recommendation as a job: what to ask for, its reasons, and one click to take it."""

from __future__ import annotations

from typing import Any

import streamlit as st

import analysis
from analysis.recommendation.recommend import DEFAULT_QUESTIONS, QUESTIONS, SMALLEST
from app.dashboard.session import jobs
from app.dashboard.session.messages import or_stop, plain
from app.dashboard.session.settings import COMPARED, MOST_COMPARED, choose_settings, set_compared
from app.dashboard.widgets.figure import draw_figure
from app.dashboard.widgets.job_progress import show_job
from app.runs.folder import RunFolder
from app.text import captions, wording

JOB = "recommendation-job"
GOALS = ("Tokens to hold", "Bytes to hold", "Attention to retain", "Error to allow")
ASKED = {
    "sinks": "how many sinks",
    "scope": "how many neighbours compete",
    "recent": "how much is recent",
    "layers": "budgets by layer",
    "block": "the prompt's blocks",
}


def section(run: RunFolder, seen: analysis.Capture) -> None:
    """What to aim at, the button, and below what came of it."""
    st.subheader("Recommendation")
    st.markdown(
        "Say what you can spend or what you need; candidates are simulated on this text and the choices explained."
    )
    goal = st.segmented_control("Aim at", GOALS, default=GOALS[0], required=True, key="goal")
    left, right = st.columns(2)
    with left:
        wanted = _wanted(str(goal), seen)
    with right:
        questions = st.multiselect(
            "What may differ from the paper's settings", QUESTIONS, default=DEFAULT_QUESTIONS, key="questions",
            format_func=ASKED.__getitem__,
        )  # fmt: skip
    if st.button("Recommend", key="recommend"):
        st.session_state[JOB] = or_stop(
            lambda: jobs.submit(jobs.owner(), "Recommendation", lambda job: _work(job, seen, wanted, list(questions)))
        )
        st.session_state["recommendation-run"] = str(run.path)
    job = st.session_state.get(JOB)
    if job is None or st.session_state.get("recommendation-run") != str(run.path):
        return
    show_job(job)
    if job.result is not None:
        _show(job.result)


def _wanted(goal: str, seen: analysis.Capture) -> dict[str, Any]:
    if goal == GOALS[0]:
        most = max(seen.tokens // 2, SMALLEST)
        budget = st.number_input(
            "Tokens per layer and head", SMALLEST, None, max(most // 4, SMALLEST), 8, key="goal-tokens"
        )
        return {"budget": int(budget)}
    if goal == GOALS[1]:
        size = st.number_input("Megabytes of keys and values", 0.0, None, 4.0, 0.5, key="goal-bytes")
        return {"bytes": int(size * 1e6)}
    share = st.number_input(
        "Per cent", 0.0, 100.0, 90.0 if goal == GOALS[2] else 20.0, 1.0, key=f"goal-{GOALS.index(goal)}"
    )
    return {"target": {"mass" if goal == GOALS[2] else "error": share / 100}}


def _work(
    job: jobs.Job[Any], seen: analysis.Capture, wanted: dict[str, Any], questions: list[str]
) -> analysis.Recommendation:
    return analysis.recommend(seen, questions=questions, progress=job.step, **wanted)


def _show(choice: analysis.Recommendation) -> None:
    config = choice.config
    parts = f"{config.sink_size} sinks, {config.recent_size:,} recent, {config.region_size:,} tree"
    words = f"{config.cache_size:,} tokens: {parts}"
    st.success(f"{words}; {wording.size(int(choice.reasons.attrs['bytes']))} of keys and values.")
    for sentence in choice.sentences:
        st.markdown(f"- {plain(sentence)}")
    st.button("Take the recommendation", key="take-recommendation", type="primary", on_click=_take, args=(choice,),
              help="It becomes the chosen setting, and joins the comparison if there is room.")  # fmt: skip
    draw_figure(lambda: choice.figure, captions.RECOMMENDATION, key="recommendation")


def _take(choice: analysis.Recommendation) -> None:
    choose_settings(choice.config)
    configs = list(st.session_state.get(COMPARED, []))
    if choice.config not in configs:
        set_compared([*configs[: MOST_COMPARED - 1], choice.config])
    st.session_state["taken"] = True
