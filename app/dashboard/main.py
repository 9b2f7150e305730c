"""The frame around all pages: navigation, and in the sidebar the run, layer, head and positions."""

from __future__ import annotations

import streamlit as st

from app.dashboard.pages import FIRST_PICTURE, PAGES, load_libraries
from app.dashboard.session import link_check
from app.dashboard.session.run import describe, find_run
from app.dashboard.session.view import choose_view
from app.dashboard.widgets import theme

st.set_page_config(page_title="TreeKV", page_icon="🌲", layout="wide")
theme.inject_css()
pages = {
    name: st.Page(f"views/{name}.py", title=title, url_path=name.replace("_", "-"), default=name == "start")
    for name, title in PAGES.items()
}
page = st.navigation(list(pages.values()))
run = find_run()
with st.sidebar:
    if run is not None:
        describe(run)
    shown = next(name for name in pages if pages[name] == page)
    if shown != "start":  # Start draws its picture first: the settings load torch
        FIRST_PICTURE.set()
        load_libraries()
        from app.dashboard.widgets import active

        active.show(run)
    if run is not None and shown in ("wavelets", "eviction_map", "compare"):
        link_check.check(run, shown)
        choose_view(run)
link_check.show_warning()
page.run()
