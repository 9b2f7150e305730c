"""How large a cache can be for a memory, users at once and a context, on the page Compare; as `treekv plan`."""

from __future__ import annotations

from typing import Final

import streamlit as st

import analysis
from analysis import memory_plan
from analysis.memory_plan import ModelSizes
from analysis.memory_size import DTYPES
from app.dashboard.actions import losses
from app.dashboard.actions.make_run import model_names, model_title, sizes_here
from app.dashboard.session.messages import plain, sentence
from app.dashboard.session.run import default_model
from app.dashboard.session.settings import MOST_COMPARED, join_compared
from app.dashboard.widgets.job_progress import show_job
from app.runs.folder import RunFolder
from app.text import wording
from treekv import TreeKVConfig, TreeKVError
from treekv.models import load_config

# In the session: whether the section is open, and the job that predicts the loss, after what it was asked for.
OPEN: Final = "plan"
JOB: Final = "plan-loss-job"


def section(run: RunFolder, captured: analysis.Capture) -> None:
    """The inputs, the largest cache that fits in one sentence, its predicted loss, and a button that compares it."""
    with st.expander("How much can I have?", key=OPEN, on_change="rerun"):
        st.markdown("The largest cache with which all users fit, at the end of their contexts.")
        model = _choose_model(run)
        columns = st.columns(4)
        memory = columns[0].text_input("Memory", "8 GB", key="plan-memory", help="Of the GPU or the machine.")
        users = columns[1].number_input("Users at once", value=16, key="plan-users")
        context = columns[2].number_input("Context (tokens)", value=32_768, step=1024, key="plan-context")
        dtype = columns[3].selectbox("Data type", DTYPES, index=DTYPES.index("bfloat16"), key="plan-dtype")
        try:
            sizes, kept = _sizes(run, captured, model)
            taken = _weights(sizes, str(dtype))
            total = memory_plan.read_bytes(memory or "")
            if taken >= total:
                raise TreeKVError(f"the weights take {wording.size(taken)}, and the memory is {wording.size(total)}")
            found = memory_plan.plan(
                kept,
                memory=total - taken,
                users=int(users),
                context=int(context),
                dtype=str(dtype),
            )
        except TreeKVError as error:
            st.error(sentence(error))
            return
        st.markdown(plain(wording.plan_in_words(found, int(users), int(context), str(dtype))))
        if model != default_model(run):
            st.caption("Its loss can be predicted on a run of that model, which Start makes.")
            return
        if found.config.policy == "full" or found.config.cache_size >= captured.tokens:
            st.markdown(
                f"This run's text of {captured.tokens:,} tokens fits into it, so no loss can be predicted here; make a "
                "run of a longer text."
            )
            return
        _predict(run, captured, found.config)
        st.button(
            "Compare this size",
            key="plan-compare",
            on_click=_compare,
            args=(found.config,),
            help="It joins the comparison.",
        )


def _choose_model(run: RunFolder) -> str:
    """The run's own until another is chosen."""
    own = default_model(run)
    names = model_names()
    chosen = st.selectbox(
        "Model",
        names if own in names else [own, *names],
        index=names.index(own) if own in names else 0,
        format_func=model_title,
        accept_new_options=True,
        key="plan-model",
        help="The run's own, another installed model, a local folder or a hub id. No weights are read.",
    )
    return chosen or own


def _sizes(
    run: RunFolder, captured: analysis.Capture, model: str
) -> tuple[ModelSizes | None, ModelSizes | analysis.Capture]:
    """The sizes of a model, and what its cache is planned from: of the run's own the capture, which is here even where
    its configuration is not. Raises TreeKVError for another one that cannot be read."""
    if model == default_model(run):
        return sizes_here(model), captured
    sizes = _read_sizes(model)
    return sizes, sizes


@st.cache_data(max_entries=16, show_spinner="Reading the configuration of the model")
def _read_sizes(model: str) -> ModelSizes:
    return memory_plan.model_sizes(load_config(model))


def _weights(sizes: ModelSizes | None, dtype: str) -> int:
    """The bytes that the model's weights take from the memory."""
    if sizes is None:
        st.caption("The model's configuration is not here, so its weights are not taken from the memory.")
        return 0
    if not st.toggle("Take the model's weights from the memory first", True, key="plan-weights"):
        return 0
    taken = sizes.weight_bytes(dtype)
    st.caption(f"Weights: {wording.size(taken)} in {dtype}.")
    return taken


def _predict(run: RunFolder, captured: analysis.Capture, config: TreeKVConfig) -> None:
    """The predicted loss at that size, found by a job while the section is open."""
    reason = losses.why_not(run, captured, 0)
    if reason:
        st.caption(reason)
        return
    question, wanted = losses.Question(run, 0, "predicted"), {"planned": config}
    known = question.known(wanted)
    if len(known) == 2:
        loss = known["planned"].loss - known[losses.FULL].loss
        st.markdown(f"**Predicted loss at that size: {loss:+.3f} nats a token** above the full cache, on this text.")
        return
    if not st.session_state.get(OPEN):
        return
    asked, key = st.session_state.get(JOB), (str(run.path), config)
    if asked is None or asked[0] != key:
        asked = losses.ask_anew(JOB, key, question, wanted)
    if asked is not None:
        show_job(asked[1])


def _compare(config: TreeKVConfig) -> None:
    if not join_compared(config):
        st.toast(f"{MOST_COMPARED} settings are compared already; remove one to compare this size.")
