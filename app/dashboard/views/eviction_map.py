"""Which tokens a policy holds, step by step: as a map, as a density, in the text itself, and as a tree."""

from __future__ import annotations

import streamlit as st

from analysis import plot
from app import wording
from app.dashboard import run_state
from app.dashboard.moments import through_time

MOST_TOKENS = 2048  # of the text at once: a page of 250 kB

run = run_state.current_run()
data = run_state.retention(run)
layer, head = run_state.chosen("layer"), run_state.chosen("head")
heads = run_state.query_heads(run)
kv_head = run_state.kv_head(head, heads, data.sizes["head"])
steps = int(data.attrs["steps"])

st.title("Eviction map")
policies = sorted((str(name) for name in data["policy"].values), key=lambda name: name != "tree")
policy = st.segmented_control(
    "Policy",
    policies,
    default=policies[0],
    required=True,
    format_func=lambda name: wording.POLICY_TITLES.get(name, run_state.plain(name)),
    key="policy",
    bind="query-params",
)
run_state.draw(lambda: plot.eviction_map(data, policy, layer, kv_head), wording.READ_EVICTION_MAP, key="eviction-map")
if kv_head is not None:
    st.caption(f"Query head {head} reads KV head {kv_head}, so that is the one shown.")


def at(step: int) -> None:
    view = st.segmented_control(
        "Show", ["Text", "Density", "Tree"], default="Text", required=True, key="view", bind="query-params"
    )
    if view == "Text":
        first = max(step + 1 - MOST_TOKENS, 0)
        run_state.draw_text(
            lambda: plot.text_retention(data, policy, step=step, layer=layer, head=kv_head, start=first),
            wording.READ_TEXT,
        )
    elif view == "Density":
        run_state.draw(lambda: plot.density(data, step), wording.READ_DENSITY, key="density")
    else:
        run_state.draw(lambda: plot.tree(data, policy, layer, kv_head, step=step), wording.READ_TREE, key="tree")


st.subheader("Through time")
through_time(steps, at)
