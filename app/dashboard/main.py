"""The frame of the dashboard: which run, which layer and head; the pages draw."""

from __future__ import annotations

import streamlit as st

from app.dashboard import run_state

st.set_page_config(page_title="TreeKV", page_icon="🌲", layout="wide")
page = st.navigation(
    [
        st.Page("views/wavelets.py", title="Wavelets", default=True),
        st.Page("views/eviction_map.py", title="Eviction map", url_path="eviction-map"),
    ]
)
run = run_state.current_run()
with st.sidebar:
    run_state.choose_layer_and_head(run_state.spectrum(run))
    text = run.manifest["text"]
    st.caption(
        f"{run_state.plain(run.manifest['model'])}  \n"
        f"{run_state.plain(text['title'])}, {text['tokens']:,} tokens  \n"
        f"Run: {run_state.plain(run.path.name)}"
    )
page.run()
