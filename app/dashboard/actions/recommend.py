"""The recommendation as a job: what to aim at, the reasons, and a button that applies it."""

from __future__ import annotations

from typing import Any, Final

import pandas as pd
import streamlit as st

import analysis
from analysis.recommendation.recommend import DEFAULTS, PROPOSED, SMALLEST
from app.dashboard.actions import losses
from app.dashboard.session import jobs, loaded_model
from app.dashboard.session.keys import PROMPT_GIVEN, TEXTS
from app.dashboard.session.messages import or_stop, plain
from app.dashboard.session.run import default_model, open_capture
from app.dashboard.session.settings import choose_settings, join_compared
from app.dashboard.session.texts import choose_others
from app.dashboard.widgets.figure import draw_figure
from app.dashboard.widgets.job_progress import show_job
from app.dashboard.widgets.settings_editor import TAKEN
from app.runs import folder as run_folder
from app.runs.folder import RunFolder
from app.text import captions, wording
from treekv import TreeKVConfig, TreeKVError

# Keys in the session: the job, and the folder of the run that it is about.
JOB: Final = "recommendation-job"
JOB_RUN: Final = "recommendation-run"
DTYPE: Final = "bfloat16"  # a capture's file has as many bytes per number
NAMES: Final = {PROPOSED: "TreeKV, budgets by head", DEFAULTS: "TreeKV, paper's defaults"}
TOKENS, BYTES, LOSS = GOALS = ("Tokens to keep", "Bytes to keep", "Loss to allow")


def section(run: RunFolder, captured: analysis.Capture) -> None:
    """The goal, the button, and the recommendation below them."""
    st.subheader("Recommendation")
    try:
        captured.check_sensitivity()
    except TreeKVError:
        st.caption(
            "There is no recommendation: this run has no gradients of the loss, which say what each head needs. Make a "
            "run with them on Start."
        )
        return
    st.markdown(
        "State a budget or a target. Each KV head gets as many tokens as it needs, by what evictions there would cost."
    )
    goal = str(st.segmented_control("Goal", GOALS, default=TOKENS, required=True, key="goal"))
    wanted = _wanted(goal, captured)
    missing = losses.why_not(run, captured, 0)  # which the page says above
    more = _other_texts(run)
    if st.button("Recommend", key="recommend"):
        st.session_state[JOB] = or_stop(
            lambda: jobs.submit(
                jobs.owner(), "Recommendation", lambda job: _work(job, run, captured, more, wanted, not missing)
            )
        )
        st.session_state[JOB_RUN] = str(run.path)
    job = st.session_state.get(JOB)
    if job is None or st.session_state.get(JOB_RUN) != str(run.path):
        return
    show_job(job)
    if job.result is not None:
        _show(job.result, captured)


def _other_texts(run: RunFolder) -> list[RunFolder]:
    """Other runs of the same model whose texts are to count too."""
    return choose_others(
        run,
        TEXTS[1],
        lambda other: other.has(run_folder.CAPTURE) and "no_gradients" not in other.manifest,
        "Two or more unlike texts are better than one. They need gradients of the loss.",
    )


def _wanted(goal: str, captured: analysis.Capture) -> dict[str, Any]:
    """The arguments of `analysis.recommend` for a goal, from one number input."""
    if goal == TOKENS:
        most = max(captured.tokens // 2, SMALLEST)
        budget = st.number_input(
            "Tokens per layer and head, on average", SMALLEST, None, max(most // 4, SMALLEST), 8, key="goal-tokens"
        )
        return {"budget": int(budget)}
    if goal == BYTES:
        size = st.number_input("Megabytes of keys and values", 0.0, None, 4.0, 0.5, key="goal-bytes")
        return {"max_bytes": int(size * 1e6)}
    loss = st.number_input("Nats a token above the full cache", 0.0, None, 0.1, 0.01, "%.3f", key="goal-loss")
    return {"target": {"loss": float(loss)}}


def _work(
    job: jobs.Job[analysis.Recommendation],
    run: RunFolder,
    captured: analysis.Capture,
    more: list[RunFolder],
    wanted: dict[str, Any],
    predict: bool,
) -> analysis.Recommendation:
    model = None
    texts = [captured]
    for number, other in enumerate(more, start=1):
        job.report(0, 0, f"reading text {number + 1} of {len(more) + 1}")
        texts.append(open_capture(other))
    if predict:
        job.report(0, 0, "loading the model")
        model, _ = loaded_model.get(default_model(run))
    return analysis.recommend(texts, model=model, progress=job.step, **wanted)


def in_one_sentence(choice: analysis.Recommendation, captured: analysis.Capture) -> str:
    """What to do, what it saves and what it costs beside the paper's defaults of the same size on the same text."""
    every = analysis.cache_bytes(captured, TreeKVConfig(policy="full"), captured.tokens, dtype=DTYPE)
    saved = every - choice.nbytes
    words = (
        f"Keep {choice.config.cache_size:,} tokens for each layer and KV head on average, "
        f"{choice.budgets.values.min():,} to {choice.budgets.values.max():,}: {wording.size(choice.nbytes)} of keys "
        f"and values in {DTYPE}"
    )
    if saved > 0:
        words += f", {wording.size(saved)} less than the full cache of these {captured.tokens:,} tokens"
    if choice.losses is None:
        return f"{words}; without the model its loss is not known."
    cost = dict(zip(choice.losses["policy"].values.tolist(), choice.losses.values.tolist(), strict=True))
    lower = min(cost, key=cost.__getitem__)
    if lower != PROPOSED:
        return (
            f"Use {NAMES.get(lower, lower)} with {choice.config.cache_size:,} tokens on this kind of text: its "
            f"predicted loss is {cost[lower]:+.3f} nats a token above the full cache, that of budgets by head "
            f"{cost[PROPOSED]:+.3f}, that of the paper's defaults {cost[DEFAULTS]:+.3f}."
        )
    others = {name: loss for name, loss in cost.items() if name not in (PROPOSED, DEFAULTS)}
    best = min(others, key=others.__getitem__)
    return (
        f"{words}, for a predicted loss of {cost[PROPOSED]:+.3f} nats a token, where the paper's defaults of this size "
        f"cost {cost[DEFAULTS]:+.3f} and {best}, the best of the others, {others[best]:+.3f}."
    )


def _show(choice: analysis.Recommendation, captured: analysis.Capture) -> None:
    st.success(plain(in_one_sentence(choice, captured)))
    for sentence in choice.sentences:
        st.markdown(f"- {plain(sentence)}")
    if choice.losses is not None:
        table = pd.DataFrame(
            {
                "settings": [NAMES.get(name, name) for name in choice.losses["policy"].values],
                "loss above full, predicted": choice.losses.values,
            }
        ).sort_values("loss above full, predicted")
        st.dataframe(
            table,
            hide_index=True,
            width="content",
            column_config={"loss above full, predicted": st.column_config.NumberColumn(format="%+.3f")},
        )
    best = _best(choice)
    st.button(
        "Use this configuration",
        key="take-recommendation",
        type="primary",
        on_click=_take,
        args=(best,),
        help="It becomes the active configuration, and joins the comparison if there is room; nothing else changes.",
    )
    if best != choice.config:
        st.button("Use the budgets by head", key="take-budgets", on_click=_take, args=(choice.config,))
    draw_figure(lambda: choice.figure, captions.RECOMMENDATION, key="recommendation")


def _best(choice: analysis.Recommendation) -> TreeKVConfig:
    """The settings with the least predicted loss: those proposed, unless another of the same size is better."""
    if choice.losses is None:
        return choice.config
    name = str(choice.losses["policy"].values[int(choice.losses.values.argmin())])
    return choice.alternatives.get(name, choice.config)


def _take(config: TreeKVConfig) -> None:
    choose_settings(config)
    st.session_state[PROMPT_GIVEN] = True  # the prompt of the comparison stays as it is
    join_compared(config)
    st.session_state[TAKEN] = True
