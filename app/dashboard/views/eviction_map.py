"""Eviction map: which tokens a policy keeps, step by step, as a map, a density, shaded text and a tree."""

from __future__ import annotations

import streamlit as st

from analysis import plot
from app.dashboard.session.keys import REAL_TRACE
from app.dashboard.session.run import current_run, open_retention, policies_of, policy_label, query_heads
from app.dashboard.session.view import kv_head_of, selected_index, selected_stretch
from app.dashboard.widgets.figure import draw_figure, draw_text
from app.dashboard.widgets.step_slider import through_time
from app.text import captions, wording

MOST_TOKENS = 2048  # of the text at once: a page of 250 kB
MOST_IN_TREE = 256

run = current_run()
simulated, real = open_retention(run), st.session_state.get(REAL_TRACE)
layer, head = selected_index("layer"), selected_index("head")

st.title("Eviction map")
names = policies_of(simulated)
from_run = [] if real is None else [str(name) for name in real["policy"].values if str(name) not in names]
if st.session_state.get("policy", names[0]) not in names + from_run:
    del st.session_state["policy"]
policy = st.segmented_control(
    "Policy",
    names + from_run,
    default=names[0],
    required=True,
    format_func=policy_label,
    key="policy",
    bind="query-params",
    persist_state="session",
)
is_real = policy in from_run
data = wording.titled(simulated if real is None or not is_real else real)
name = wording.policy_title(policy)
steps = int(data.attrs["steps"])
if is_real:
    st.caption(
        f"The real cache of your last generation, {steps:,} tokens of prompt and answer. The other policies are "
        "simulated on the text of the run."
    )
    if layer is not None and layer not in data["layer"].values:
        layer = None
kv_head = kv_head_of(head, query_heads(run), data.sizes["head"])
start, stop = selected_stretch(steps) if not is_real else (None, None)

draw_figure(
    lambda: plot.eviction_map(data, policy=name, layer=layer, head=kv_head, start=start, stop=stop),
    captions.EVICTION_MAP,
    key="eviction-map",
    zoomable=not is_real,
)
if kv_head is not None:
    st.caption(f"Query head {head} reads KV head {kv_head}, which is shown.")


def at(step: int) -> None:
    view = st.segmented_control(
        "Show",
        ["Text", "Density", "Tree"],
        default="Text",
        required=True,
        key="view",
        bind="query-params",
        persist_state="session",
    )
    first, last = start or 0, min(stop or steps, step + 1)
    if first >= last:
        st.info(f"No position from {first:,} on has been read yet; move the slider to the right.")
    elif view == "Text":
        shown = max(first, last - MOST_TOKENS)
        draw_text(
            lambda: plot.text_retention(
                data, policy=name, layer=layer, head=kv_head, step=step, start=shown, stop=last
            ),
            captions.TEXT,
        )
    elif view == "Density":
        draw_figure(
            lambda: plot.density(data, layer=layer, head=kv_head, step=step, start=start, stop=stop),
            captions.DENSITY,
            key="density",
        )
    else:
        narrow = (first, last) if (start or stop) and last - first <= MOST_IN_TREE else (None, None)
        draw_figure(
            lambda: plot.tree(data, policy=name, layer=layer, head=kv_head, step=step, start=narrow[0], stop=narrow[1]),
            captions.TREE,
            key="tree",
        )
        if narrow == (None, None):
            st.caption(f"To see another stretch, select at most {MOST_IN_TREE} positions in the sidebar.")


st.subheader("Over time")
through_time(steps, at)
