"""How large a cache can be for a memory, users at once and a context, on the page Compare; as `treekv plan`."""

from __future__ import annotations

import streamlit as st

import analysis
from analysis import memory_plan
from analysis.memory_size import DTYPES
from app.dashboard.actions.make_run import sizes_here
from app.dashboard.session.messages import plain, sentence
from app.dashboard.session.run import default_model
from app.dashboard.session.settings import MOST_COMPARED, join_compared
from app.runs.folder import RunFolder
from app.text import wording
from treekv import TreeKVConfig, TreeKVError


def section(run: RunFolder, captured: analysis.Capture) -> None:
    """The inputs, the largest cache that fits in one sentence, and a button that compares it."""
    with st.expander("How much can I have?"):
        st.markdown("The largest cache with which all users fit, at the end of their contexts.")
        columns = st.columns(4)
        memory = columns[0].text_input("Memory", "8 GB", key="plan-memory", help="Of the GPU or the machine.")
        users = columns[1].number_input("Users at once", 1, memory_plan.MOST_USERS, 16, key="plan-users")
        context = columns[2].number_input("Context (tokens)", 32, 10_000_000, 32_768, 1024, key="plan-context")
        dtype = columns[3].selectbox("Data type", DTYPES, index=DTYPES.index("bfloat16"), key="plan-dtype")
        sizes = sizes_here(default_model(run))
        taken = 0
        if sizes is None:
            st.caption("The model's configuration is not here, so its weights are not taken from the memory.")
        elif st.toggle("Take the model's weights from the memory first", True, key="plan-weights"):
            taken = sizes.weight_bytes(str(dtype))
            st.caption(f"Weights: {wording.size(taken)} in {dtype}.")
        try:
            total = memory_plan.read_bytes(memory or "")
            if taken >= total:
                raise TreeKVError(f"the weights take {wording.size(taken)}, and the memory is {wording.size(total)}")
            found = memory_plan.plan(
                captured,
                memory=total - taken,
                users=int(users),
                context=int(context),
                dtype=str(dtype),
            )
        except TreeKVError as error:
            st.error(sentence(error))
            return
        st.markdown(plain(wording.plan_in_words(found, int(users), int(context), str(dtype))))
        fits = found.config.policy == "full" or found.config.cache_size >= captured.tokens
        if fits:
            st.markdown(
                f"This run's text of {captured.tokens:,} tokens fits into it, so no loss can be predicted here; make a "
                "run of a longer text."
            )
        st.button(
            "Compare this size",
            key="plan-compare",
            disabled=fits,
            on_click=_compare,
            args=(found.config,),
            help="It joins the comparison, which predicts its loss.",
        )


def _compare(config: TreeKVConfig) -> None:
    if not join_compared(config):
        st.toast(f"{MOST_COMPARED} settings are compared already; remove one to compare this size.")
