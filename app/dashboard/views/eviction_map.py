"""Which tokens a policy holds, step by step."""

from __future__ import annotations

import streamlit as st

from analysis import plot
from app import wording
from app.dashboard import run_state

run = run_state.current_run()
data = run_state.retention(run)
layer, head = run_state.chosen("layer"), run_state.chosen("head")
heads = run_state.spectrum(run).sizes["head"]
kv_head = run_state.kv_head(head, heads, data.sizes["head"])

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
