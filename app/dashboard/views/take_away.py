"""The chosen settings as files and commands, the pictures, a report, and what other engines would make of them."""

from __future__ import annotations

import os
import re

import streamlit as st

from app.dashboard.actions import generate, take_away
from app.dashboard.session.messages import or_stop, plain, sentence
from app.dashboard.session.run import find_run
from app.dashboard.session.settings import current_settings, encode
from app.dashboard.widgets.figure import draw_figure
from app.export import figure_files, other_engines, snippets
from app.runs import folder as run_folder
from app.runs.folder import RunFolder
from app.text import wording
from treekv import TreeKVConfig, TreeKVError

run = find_run()
st.title("Take away")
if st.session_state.get("run_error"):
    st.error(plain(st.session_state["run_error"]))
config = current_settings(run)
st.markdown(
    "What you chose, ready to run elsewhere: a file, a script, a command, the pictures and a page for a colleague."
)


def settings() -> None:
    st.subheader("Settings")
    st.markdown(f"{plain(wording.settings_in_words(config))}.")
    content = take_away.settings_json(config)
    st.download_button(
        "Download settings.json", content, snippets.SETTINGS_FILE, "application/json", key="settings-file",
        type="primary", on_click="ignore",
    )  # fmt: skip
    with st.expander("What is in it"):
        st.code(content, language="json")


def commands() -> None:
    st.subheader("Run it")
    named = (
        "smollm2" if run is None else generate.model_of(str(run.manifest.get("load") or run.manifest.get("model", "")))
    )
    model = st.text_input("Model", value=named, key="take-model",
                          help="An alias such as smollm2, a local folder, or a hub id.")  # fmt: skip
    prompt = st.text_input("Prompt", value=snippets.PROMPT, key="take-prompt", persist_state="session")
    if not model.strip() or not prompt.strip():
        st.error("Give a model and a prompt; then the script and the command appear here.")
        return
    st.markdown("In Python, beside the file:")
    st.code(snippets.python_snippet(model.strip(), prompt), language="python")
    st.markdown("Or as a command:")
    st.code(snippets.command_line(model.strip(), prompt), language="shell", wrap_lines=True)


def figures(run: RunFolder) -> None:
    st.subheader("Pictures")
    there = take_away.figures(run, config)
    if not there:
        st.info("This run has neither a spectrum nor a capture to draw from; make it again on the page Start.")
        return
    name = str(st.selectbox("Picture", list(there), key="figure"))
    make, reading = there[name]
    with st.spinner("Drawing"):
        figure = or_stop(make)
    draw_figure(lambda: figure, reading, key="take-figure")
    file = re.sub(r"\W+", "-", name.lower()).strip("-")
    row = st.columns(3)
    with row[0]:
        st.download_button("HTML", lambda: figure_files.html(figure), f"{file}.html", "text/html", key="figure-html",
                           on_click="ignore", width="stretch")  # fmt: skip
    key = f"{file} {encode(config)} {run.path.name}"
    drawn = st.session_state.get("images")
    if drawn is None or drawn[0] != key:
        with row[1]:
            if not st.button("Draw as SVG and PNG", key="draw-images", width="stretch"):
                return
        try:
            with st.spinner("Drawing with a browser of its own"):
                drawn = (key, {kind: figure_files.image(figure, kind) for kind in figure_files.SCALE})
        except TreeKVError as error:
            st.error(sentence(error))
            return
        st.session_state["images"] = drawn
        st.rerun()
    for column, (kind, mime) in zip(row[1:], (("svg", "image/svg+xml"), ("png", "image/png")), strict=True):
        with column:
            st.download_button(kind.upper(), drawn[1][kind], f"{file}.{kind}", mime, key=f"figure-{kind}",
                               on_click="ignore", width="stretch")  # fmt: skip


def report(run: RunFolder) -> None:
    st.subheader("Report")
    left, right = st.columns(2)
    with left:
        st.markdown("One page on the chosen settings: numbers, three pictures, how to run them.")
        try:
            take_away.check(run, config)
            st.download_button(
                "One-page report", lambda: take_away.report(run, config), "treekv-settings.html", "text/html",
                key="report-one", on_click="ignore",
            )  # fmt: skip
        except TreeKVError as error:
            st.caption(sentence(error))
    with right:
        st.markdown("The whole report of the run, as it was made.")
        try:
            run.file(run_folder.REPORT)
            st.download_button("Report of the run", lambda: run.file(run_folder.REPORT).read_bytes(),
                               "treekv-run.html", "text/html", key="report-run", on_click="ignore")  # fmt: skip
        except TreeKVError as error:
            there = os.path.lexists(run.path / run_folder.REPORT)
            st.caption(sentence(error) if there else "This run was made without one.")


def elsewhere(config: TreeKVConfig) -> None:
    st.subheader("In other engines")
    found = other_engines.translations(config)
    if not found:
        st.info("The chosen settings evict nothing, so there is nothing to translate.")
        return
    st.markdown("The nearest that each can do. None has the tree, so measure there before you rely on it.")
    for tab, one in zip(st.tabs([one.engine for one in found]), found, strict=True):
        with tab:
            st.code(one.code, language="shell" if one.code.startswith("mlx") else "python", wrap_lines=True)
            for note in one.notes:
                st.markdown(f"- {plain(note)}")


settings()
commands()
if run is None:
    st.info("Pictures and a report need a run: open one on the page Start.")
else:
    opened = run
    st.fragment(lambda: figures(opened))()
    report(run)
elsewhere(config)
