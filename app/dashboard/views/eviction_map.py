"""Eviction map: which tokens a policy keeps, step by step, as a map, a density, shaded text and a tree, of one run or
two, and when a phrase was forgotten."""

from __future__ import annotations

import streamlit as st

from app.dashboard.actions import find
from app.dashboard.actions.moment import Part, draw_heads, draw_linked, draw_tree
from app.dashboard.pages import runs_root
from app.dashboard.session.keys import REAL_TRACE
from app.dashboard.session.messages import or_stop, plain
from app.dashboard.session.run import current_run, open_retention, policies_of, policy_label, query_heads
from app.dashboard.session.view import choose_head, follow, kv_head_of, selected_index, selected_stretch
from app.dashboard.widgets.step_slider import through_time
from app.runs import folder as run_folder
from app.text import wording

VIEWS = TOGETHER, TREE, HEADS = "Map, density and text", "Tree", "All heads"

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

if kv_head is not None:
    st.caption(f"Query head {head} reads KV head {kv_head}, which is shown.")
part = Part(data, name, layer, kv_head, start, stop)


def choose_kv_head(layer: int, head: int) -> None:
    """Select a layer and the first query head that reads a KV head."""
    choose_head(layer, head * query_heads(run) // data.sizes["head"])


def another_run() -> Part | None:
    """The run to show beside this one, if one is chosen."""
    names = [other.path.name for other in run_folder.recent(runs_root()) if other.path.name != run.path.name]
    if not names:
        return None
    if st.session_state.get("beside") not in (None, *names):
        del st.session_state["beside"]
    chosen = st.selectbox(
        "Another run beside it",
        names,
        index=None,
        key="beside",
        bind="query-params",
        persist_state="session",
        placeholder="none",
        help="Another text or model, at the same step. Layers and heads that it does not have are shown as means.",
    )
    if chosen is None:
        return None
    other = or_stop(lambda: run_folder.open_below(runs_root(), chosen))
    record = wording.titled(open_retention(other))
    return Part(
        record,
        name if name in record["policy"].values else str(record["policy"].values[0]),
        layer if layer in record["layer"].values else None,
        kv_head if kv_head in record["head"].values else None,
        key="-beside",
    )


def at(step: int) -> None:
    follow()
    view = st.segmented_control(
        "Show",
        VIEWS,
        default=VIEWS[0],
        required=True,
        key="view",
        bind="query-params",
        persist_state="session",
    )
    parts = [part] if beside is None else [part, beside]
    if beside is not None:
        st.caption(
            f"First: {plain(run.path.name)}, {plain(name)}. Second: {plain(str(st.session_state['beside']))}, "
            f"{plain(beside.policy)}, {beside.steps:,} tokens."
        )
    if view == TREE:
        for one in parts:
            draw_tree(one, min(step, one.steps - 1))
    elif view == HEADS:
        for one in parts:
            draw_heads(one, step, choose_kv_head if one is part else None)
    else:
        draw_linked(parts, step, zoomable=not is_real)


beside = another_run()
through_time(max(steps, beside.steps) if beside else steps, at)
find.section(run, data, name, choose_kv_head, is_real)
