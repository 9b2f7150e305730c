"""Export: the active configuration as files and commands, figures, a report, and settings for other engines."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

import plotly.graph_objects as go
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from app.dashboard.actions import generate, take_away
from app.dashboard.session.messages import or_stop, plain, sentence
from app.dashboard.session.run import default_model, end_of_text, find_run, show_run_error
from app.dashboard.session.settings import current_settings, encode
from app.dashboard.widgets.figure import draw_figure
from app.export import figure_files, other_engines, snippets
from app.runs import folder as run_folder
from app.runs.folder import RunFolder
from app.text import wording
from treekv import TreeKVConfig, TreeKVError

IMAGES = "images"  # in the session: what was exported last, and its files by kind

run = find_run()
st.title("Export")
show_run_error()
config = current_settings(run)
st.markdown(
    "The active configuration, ready to run elsewhere: a file, a script and a command, with figures and a report."
)


def settings() -> None:
    st.subheader("Settings")
    st.markdown(f"{plain(wording.settings_in_words(config))}.")
    content = take_away.settings_json(config)
    st.download_button(
        "Download settings.json",
        content,
        snippets.SETTINGS_FILE,
        "application/json",
        key="settings-file",
        type="primary",
        on_click="ignore",
    )
    with st.expander("Contents of the file"):
        st.code(content, language="json")


def commands() -> None:
    st.subheader("Run it")
    model = st.text_input("Model", value=default_model(run), key="take-model", help=wording.MODEL_HELP)
    prompt = st.text_area(
        "Prompt",
        value=_first_prompt(),
        height=100,
        key="take-prompt",
        persist_state="session",
        help="Longer than the budget by default, so that something is evicted.",
    )
    if not model.strip() or not prompt.strip():
        st.error("Enter a model and a prompt to see the script and the command.")
        return
    if snippets.needs_file(prompt):
        st.download_button(
            "Download prompt.txt", prompt, snippets.PROMPT_FILE, "text/plain", key="prompt-file", on_click="ignore"
        )
    st.markdown(f"In Python, with {'both files' if snippets.needs_file(prompt) else 'the file'} in the same folder:")
    st.code(snippets.python_snippet(model.strip(), prompt), language="python", wrap_lines=True)
    command = snippets.own_command()
    st.markdown("Or as a command, in the environment in which TreeKV is installed:")
    st.code(snippets.command_line(model.strip(), prompt, command=command), language="shell", wrap_lines=True)


def _first_prompt() -> str:
    """The prompt of the page Generate, or the end of the run's text."""
    given = str(st.session_state.get("generate-prompt") or "")
    if given or run is None:
        return given or snippets.PROMPT
    return end_of_text(run, generate.first_prompt_tokens(config)) or snippets.PROMPT


def figures(run: RunFolder) -> None:
    st.subheader("Figures")
    there = take_away.figures(run, config)
    if not there:
        st.info("This run has neither a spectrum nor a capture to draw from. Make it again on the page Start.")
        return
    name = st.selectbox("Figure", list(there), key="figure") or next(iter(there))
    make, caption = there[name]
    with st.spinner("Drawing"):
        figure = or_stop(make)
    draw_figure(lambda: go.Figure(figure), caption, key="take-figure")  # what is taken away keeps its paper
    file = re.sub(r"\W+", "-", name.lower()).strip("-")
    row = st.columns(3)
    _download(row[0], "HTML", lambda: figure_files.html(figure), f"{file}.html", "text/html", "figure-html")
    key = f"{file} {encode(config)} {run.path.name}"
    drawn = st.session_state.get(IMAGES)
    if drawn is None or drawn[0] != key:
        with row[1]:
            if not st.button("Export SVG, PNG", key="draw-images", width="stretch"):
                return
        try:
            with st.spinner("Exporting, with a browser in the background"):
                drawn = (key, {kind: figure_files.image(figure, kind) for kind in figure_files.SCALE})
        except TreeKVError as error:
            st.error(sentence(error))
            return
        st.session_state[IMAGES] = drawn
        st.rerun()
    for column, (kind, mime) in zip(row[1:], (("svg", "image/svg+xml"), ("png", "image/png")), strict=True):
        _download(column, kind.upper(), drawn[1][kind], f"{file}.{kind}", mime, f"figure-{kind}")


def _download(
    column: DeltaGenerator, label: str, content: bytes | Callable[[], str], file: str, mime: str, key: str
) -> None:
    column.download_button(label, content, file, mime, key=key, on_click="ignore", width="stretch")


def report(run: RunFolder) -> None:
    st.subheader("Report")
    left, right = st.columns(2)
    with left:
        st.markdown("One page on the active configuration: numbers, three figures, and how to run them.")
        try:
            take_away.check(run, config)
            st.download_button(
                "One-page report",
                lambda: take_away.report(run, config),
                "treekv-settings.html",
                "text/html",
                key="report-one",
                on_click="ignore",
            )
        except TreeKVError as error:
            st.caption(sentence(error))
    with right:
        st.markdown("The full report of the run, as it was made.")
        try:
            run.file(run_folder.REPORT)
            st.download_button(
                "Report of the run",
                lambda: run.file(run_folder.REPORT).read_bytes(),
                "treekv-run.html",
                "text/html",
                key="report-run",
                on_click="ignore",
            )
        except TreeKVError as error:
            there = os.path.lexists(run.path / run_folder.REPORT)
            st.caption(sentence(error) if there else "This run was made without a report.")


def elsewhere(config: TreeKVConfig) -> None:
    st.subheader("In other engines")
    found = other_engines.translations(config)
    if not found:
        st.info("The active configuration evicts nothing, so there is nothing to translate.")
        return
    st.markdown("The nearest settings of each engine. None has the tree, so measure there before you rely on them.")
    for tab, one in zip(st.tabs([one.engine for one in found]), found, strict=True):
        with tab:
            st.code(one.code, language="shell" if one.code.startswith("mlx") else "python", wrap_lines=True)
            for note in one.notes:
                st.markdown(f"- {plain(note)}")


settings()
commands()
if run is None:
    st.info("Figures and a report need a run: open one on the page Start.")
else:
    opened = run
    st.fragment(lambda: figures(opened))()
    report(run)
elsewhere(config)
