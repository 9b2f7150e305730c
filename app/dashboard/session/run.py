"""The run that this session has open, and its records."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

import streamlit as st
import xarray as xr

import analysis
from analysis.result_files import DatasetKind
from app import DEFAULT_MODEL
from app.dashboard.pages import RUN_VARIABLE, runs_root
from app.dashboard.session.keys import BEFORE, PROMPT_GIVEN, RUN_ERROR, SETTINGS, TEXTS, UNSAVED, VIEW
from app.dashboard.session.messages import below_root, or_stop, plain
from app.runs import folder as run_folder
from app.runs.captured_model import model_to_load
from app.runs.folder import RunFolder
from app.text import wording
from treekv import TreeKVError


def find_run() -> RunFolder | None:
    """The run of this session or None; if it cannot be opened, the reason is kept for the page to show.

    The run is named in the address (?run=demo), or the user opened it, or the server was started on it.
    """
    st.session_state.setdefault("by_link", "run" in st.query_params)
    closed = st.session_state.get("run") == ""  # and not just not opened yet
    name = st.query_params.get("run") or st.session_state.get("run") or ("" if closed else os.environ.get(RUN_VARIABLE))
    st.session_state["run"], st.session_state[RUN_ERROR] = name, None
    if not name:
        return None
    st.query_params["run"] = name
    try:
        return run_folder.open_below(runs_root(), name)
    except TreeKVError as error:
        st.session_state[RUN_ERROR] = below_root(str(error))
        return None


def show_run_error() -> None:
    """Show on the page why the run of this session cannot be opened, if it cannot."""
    error = st.session_state.get(RUN_ERROR)
    if error:
        st.error(plain(error))


def open_run(name: str) -> None:
    """Open a run in this session, from the next run of the page on."""
    st.session_state["run"] = st.query_params["run"] = name
    for key in (*VIEW, *TEXTS, "step", "playing", "compare_layers", "compare_prompt", PROMPT_GIVEN, BEFORE, UNSAVED):
        st.session_state.pop(key, None)
        st.query_params.pop(key, None)
    forget_defaults()


def close_run() -> None:
    """Open no run in this session, from the next run of the page on."""
    open_run("")
    st.query_params.pop("run", None)


def forget_defaults() -> None:
    """Drop the previous run's own settings: its files', and those chosen for it, which it keeps."""
    for name in SETTINGS:
        if not st.session_state.get(f"{name}-by-hand"):
            st.session_state.pop(name, None)
            st.query_params.pop(name, None)


def current_run() -> RunFolder:
    """The run of this session; without one the page says so and ends."""
    run = find_run()
    if run is not None:
        return run
    show_run_error()
    if not st.session_state[RUN_ERROR]:
        st.title("No run yet")
        st.markdown("This page shows the results of a run. Open or make one on the page Start.")
    st.page_link("views/start.py", label="Go to Start", icon=":material/arrow_back:")
    st.stop()


def describe(run: RunFolder) -> None:
    """Describe the run, in the sidebar."""
    text = run.manifest.get("text", {})
    st.caption(
        f"**{plain(run.path.name)}**  \n{plain(str(run.manifest.get('model', 'unknown model')))}  \n"
        f"{plain(str(text.get('title', 'unknown text')))}, {text.get('tokens', 0):,} tokens"
    )


def query_heads(run: RunFolder) -> int:
    """The number of query heads; of KV heads if the spectrum is missing."""
    data = any_record(run)
    return 0 if data is None else int(data.sizes["head"])


def any_record(run: RunFolder) -> xr.Dataset | None:
    """A record that has the run's layers and heads, or None; pages report what is missing."""
    kinds: dict[str, DatasetKind] = {run_folder.SPECTRUM: "spectrum", run_folder.RETENTION: "retention"}
    for name, kind in kinds.items():
        with contextlib.suppress(TreeKVError):
            return _opened(*_version(run.file(name)), kind)
    return None


def open_spectrum(run: RunFolder) -> xr.Dataset:
    return or_stop(lambda: _opened(*_version(run.file(run_folder.SPECTRUM)), "spectrum"))


def open_trends(run: RunFolder) -> xr.Dataset:
    return or_stop(lambda: _opened(*_version(run.file(run_folder.TRENDS)), "trends"))


def open_beyond(run: RunFolder) -> xr.Dataset | None:
    """The claims to the last token; None in a run from before there were two comparisons."""
    if not run.has(run_folder.BEYOND):
        return None
    return or_stop(lambda: _opened(*_version(run.file(run_folder.BEYOND)), "trends"))


def open_retention(run: RunFolder, stop: bool = True) -> xr.Dataset:
    """The run's retention record. If it cannot be read the page says so and ends, or TreeKVError if not `stop`."""

    def read() -> xr.Dataset:
        return _opened(*_version(run.file(run_folder.RETENTION)), "retention")

    return or_stop(read) if stop else read()


def open_capture(run: RunFolder) -> analysis.Capture:
    """The run's capture, cached until the file changes. Raises TreeKVError when it is missing or damaged."""
    return _capture(*_version(run.file(run_folder.CAPTURE)))


@st.cache_resource(max_entries=2, show_spinner="Reading the capture")
def _capture(path: str, changed: int) -> analysis.Capture:
    return analysis.open(path, "capture")


def policies_of(record: xr.Dataset) -> list[str]:
    """The policies of a retention record, the tree first."""
    return sorted((str(name) for name in record["policy"].values), key=lambda name: name != "tree")


def policy_label(name: str) -> str:
    """The title of a policy in a control and in the address, escaped only where markdown needs it."""
    title = wording.policy_title(name)
    return title if re.fullmatch(r"\w[\w ,()-]*", title) else plain(title)


def tokens_of(data: xr.Dataset) -> int:
    """The length of a record's text in tokens."""
    return int(data["position"].values[-1]) + 1


def default_model(run: RunFolder | None) -> str:
    """The model to suggest beside a run: the run's own, or the demo's without a run."""
    if run is None:
        return DEFAULT_MODEL
    return model_to_load(str(run.manifest.get("load") or run.manifest.get("model", "")))


def end_of_text(run: RunFolder, tokens: int) -> str:
    """The last tokens of the run's text, as far as its files have them."""
    try:
        read = open_retention(run, stop=False)
        return "".join(str(token) for token in read["token"].values[-tokens:])
    except (TreeKVError, KeyError):
        return str(run.manifest.get("text", {}).get("end", ""))


def _version(file: Path) -> tuple[str, int]:
    return str(file), file.stat().st_mtime_ns


@st.cache_resource(max_entries=6, show_spinner="Reading the run")
def _opened(path: str, changed: int, kind: DatasetKind) -> xr.Dataset:
    """A file of a run, cached until it changes; `changed` is only part of the cache's key."""
    return analysis.open(path, kind)
