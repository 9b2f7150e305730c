"""What the pages share: the run, its arrays, the chosen layer, head and positions."""

from __future__ import annotations

import contextlib
import functools
import html
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import plotly.graph_objects as go
import streamlit as st
import xarray as xr

import analysis
from app import DEFAULT_RUN
from app.dashboard import ROOT_VARIABLE, RUN_VARIABLE
from app.dashboard.widgets import theme
from app.runs import folder as run_folder
from app.runs.folder import RunFolder
from app.text import wording
from treekv import TreeKVError

T = TypeVar("T")
ALL = "all"
SETTINGS = ("settings", "compare")  # chosen, and side by side, in the session and in the address
VIEW = ("layer", "head", "positions")  # what the sidebar chooses, in the session and in the address
LEAST_STRETCH: Final = 16  # positions; fewer show no band
MOST_SHOWN: Final = 2048  # tokens of text at once
_SHEET: Final = (
    "background:#ffffff;color:#1f2430;border:1px solid #d5d9e0;border-radius:8px;padding:16px 20px;"
    "max-height:28rem;overflow-y:auto"
)


def root() -> Path:
    """The folder that all runs of this server lie in."""
    return Path(os.environ.get(ROOT_VARIABLE) or DEFAULT_RUN.parent)


def find_run() -> RunFolder | None:
    """The run of this session, None without one; what is wrong with it is kept for the page to say.

    An address names it (?run=demo), or the user has opened it, or the server was started on it.
    """
    st.session_state.setdefault("by_link", "run" in st.query_params)
    name = st.query_params.get("run") or st.session_state.get("run") or os.environ.get(RUN_VARIABLE)
    st.session_state["run"], st.session_state["run_error"] = name, None
    if not name:
        return None
    st.query_params["run"] = name
    try:
        return run_folder.open_below(root(), name)
    except TreeKVError as error:
        st.session_state["run_error"] = below_root(str(error))
        return None


def open_run(name: str) -> None:
    """Make a run the one of this session, from the next showing of the page on."""
    st.session_state["run"] = st.query_params["run"] = name
    for key in (*VIEW, "step", "playing", "compare_layers", "compare_prompt", "prompt-given"):
        st.session_state.pop(key, None)
        st.query_params.pop(key, None)
    forget_defaults()


def forget_defaults() -> None:
    """Let go of settings that nobody chose: those that the run before came with."""
    for name in SETTINGS:
        if not st.session_state.get(f"{name}-by-hand"):
            st.session_state.pop(name, None)
            st.query_params.pop(name, None)


def current_run() -> RunFolder:
    """The run of this session; without one the page says so and stops."""
    run = find_run()
    if run is not None:
        return run
    error = st.session_state["run_error"]
    if error:
        st.error(plain(error))
    else:
        st.title("No run yet")
        st.markdown("This page draws what a run has found. Open one, or make one, on the first page.")
    st.page_link("views/start.py", label="Go to Start", icon=":material/arrow_back:")
    st.stop()


def describe(run: RunFolder) -> None:
    """The run in the sidebar."""
    text = run.manifest.get("text", {})
    st.caption(
        f"**{plain(run.path.name)}**  \n{plain(str(run.manifest.get('model', 'unknown model')))}  \n"
        f"{plain(str(text.get('title', 'unknown text')))}, {text.get('tokens', 0):,} tokens"
    )


def choose_view(run: RunFolder) -> None:
    """Selectors of layer, head and positions; the choice lives in the address, so that a link shows the same view."""
    data = any_record(run)
    if data is None:
        return
    for name, hint in (
        ("layer", "Pictures average over all layers unless one is chosen."),
        ("head", "A query head. The eviction map shows the KV head that serves it."),
    ):
        options = [ALL, *(str(number) for number in data[name].values)]
        if st.session_state.get(name, ALL) not in options:
            del st.session_state[name]
        st.selectbox(name.capitalize(), options, key=name, bind="query-params", persist_state="session", help=hint)
    tokens = tokens_of(data)
    now, asked = st.session_state.get("positions"), positions_of_address()
    if now is not None:
        if now != nearest(*now, tokens):
            st.session_state["positions"] = nearest(*now, tokens)
    elif asked is not None and asked != nearest(*asked, tokens):
        st.query_params["positions"] = list(map(str, nearest(*asked, tokens)))
        st.rerun()  # an address is read at the beginning
    st.slider(
        "Positions",
        0,
        tokens,
        (0, tokens),
        key="positions",
        bind="query-params",
        persist_state="session",
        help="The stretch of text that the pictures show; dragging over a picture chooses it too.",
    )
    if stretch(tokens) != (None, None):
        st.button("Show the whole text", on_click=zoom, args=(0, tokens), width="stretch")


def nearest(first: int, last: int, tokens: int) -> tuple[int, int]:
    """The stretch next to first ... last that can be drawn: in order, inside the text, with enough positions."""
    least = min(LEAST_STRETCH, tokens)
    first, last = sorted((first, last))
    first = min(max(first, 0), tokens - least)
    return first, min(max(last, first + least), tokens)


def positions_of_address() -> tuple[int, int] | None:
    """The stretch that the address asks for, whatever it is; None when it asks for none."""
    numbers = [whole(word) for word in st.query_params.get_all("positions")]
    if len(numbers) != 2 or numbers[0] is None or numbers[1] is None:
        return None
    return numbers[0], numbers[1]


def whole(word: str) -> int | None:
    """The number that a word of an address is, None when it is something else, or longer than any text."""
    return int(word) if word.isdecimal() and len(word) <= 12 else None


def zoom(first: int, last: int) -> None:
    """Choose a stretch of positions, first to last - 1. For callbacks, which run before the slider is made."""
    st.session_state["positions"] = (first, last)


def stretch(tokens: int) -> tuple[int | None, int | None]:
    """The chosen positions as start and stop, each None where it is the text's own."""
    first, last = st.session_state.get("positions") or (0, tokens)
    return (first or None), (last if last < tokens else None)


def query_heads(run: RunFolder) -> int:
    """How many heads there are to choose from; where the spectrum is missing, KV heads."""
    data = any_record(run)
    return 0 if data is None else int(data.sizes["head"])


def any_record(run: RunFolder) -> xr.Dataset | None:
    """Whichever of the run's records knows its layers and heads; pages say what is missing."""
    for name, kind in ((run_folder.SPECTRUM, "spectrum"), (run_folder.RETENTION, "retention")):
        with contextlib.suppress(TreeKVError):
            return _opened(*_version(run.file(name)), kind)
    return None


def spectrum(run: RunFolder) -> xr.Dataset:
    return or_stop(lambda: _opened(*_version(run.file(run_folder.SPECTRUM)), "spectrum"))


def trends(run: RunFolder) -> xr.Dataset:
    return or_stop(lambda: _opened(*_version(run.file(run_folder.TRENDS)), "trends"))


def retention(run: RunFolder, stop: bool = True) -> xr.Dataset:
    """The run's retention record. When it cannot be read the page says so and ends; with `stop` False, TreeKVError."""

    def read() -> xr.Dataset:
        return _opened(*_version(run.file(run_folder.RETENTION)), "retention")

    return or_stop(read) if stop else read()


def policies_of(record: xr.Dataset) -> list[str]:
    """The policies of a retention record, the tree first."""
    return sorted((str(name) for name in record["policy"].values), key=lambda name: name != "tree")


def policy_label(name: str) -> str:
    """What a control calls a policy, and with it the address: as it is where markdown has nothing to read in it."""
    title = wording.policy_title(name)
    return title if re.fullmatch(r"\w[\w ,()-]*", title) else plain(title)


def tokens_of(data: xr.Dataset) -> int:
    """How long the text of a record is."""
    return int(data["position"].values[-1]) + 1


def end_of_text(run: RunFolder, tokens: int) -> str:
    """The last tokens of the run's text, as far as its files tell."""
    try:
        read = retention(run, stop=False)
        return "".join(str(token) for token in read["token"].values[-tokens:])
    except (TreeKVError, KeyError):
        return str(run.manifest.get("text", {}).get("end", ""))


def chosen(name: str) -> int | None:
    """The chosen layer or head, None for all."""
    choice = st.session_state.get(name, ALL)
    return None if choice == ALL else int(choice)


def kv_head(head: int | None, heads: int, kv_heads: int) -> int | None:
    """The KV head that serves a query head."""
    return None if head is None else head * kv_heads // heads


def draw(make: Callable[[], go.Figure], reading: str, key: str, zoomable: bool = False) -> None:
    """A picture with its text alternative, and under it the sentence that says how to read it.

    In a zoomable one, whose x axis is the position, dragging chooses the stretch that all pictures show.
    """
    with st.spinner("Drawing"):
        figure = theme.themed(or_stop(make), theme.is_dark())
    options: dict[str, Any] = {}
    key = f"picture-{key}"
    if zoomable:
        figure.update_layout(dragmode="select", selectdirection="h")
        key = f"{key}-{st.session_state.get('positions')}"  # another stretch is another picture, with nothing selected
        options = {"on_select": functools.partial(_zoom_to_selection, key), "selection_mode": "box"}
    st.plotly_chart(
        figure, key=key, theme=None, alt=figure.layout.meta["alt"], config={"displaylogo": False}, **options
    )
    st.caption(reading)


def _zoom_to_selection(key: str) -> None:
    boxes = st.session_state[key]["selection"]["box"]
    if boxes:
        left, right = sorted(float(end) for end in boxes[0]["x"])
        now_first, now_last = st.session_state.get("positions") or (0, math.inf)
        first, last = max(math.floor(left), now_first, 0), min(math.ceil(right) + 1, now_last)
        if last - first >= LEAST_STRETCH:
            zoom(first, int(last))


def show_stretch(data: xr.Dataset) -> None:
    """The text of the chosen positions, or how to choose some."""
    tokens = tokens_of(data)
    start, stop = stretch(tokens)
    if start is None and stop is None:
        st.caption("Drag sideways over a picture to zoom all of them into a stretch, and to read its text here.")
        return
    first, last = start or 0, stop or tokens
    if "token" not in data.coords:
        st.caption("This record does not hold the text of its tokens.")
        return
    part = data["token"].sel(position=slice(first, last - 1)).values[:MOST_SHOWN]
    cut = f", the first {MOST_SHOWN:,} of them" if last - first > MOST_SHOWN else ""
    st.markdown(f"**The text of positions {first:,} to {last - 1:,}**{cut}")
    words = html.escape("".join(map(str, part)))
    st.html(region(words, f"The text of positions {first} to {last - 1}", f'style="{_SHEET};white-space:pre-wrap"'))


def draw_text(make: Callable[[], str], reading: str) -> None:
    """Text shaded by `analysis.plot.text_retention`, which escapes it, on a sheet of paper in either theme."""
    st.html(region(or_stop(make), "The text, shaded by what is kept", f'style="{_SHEET}"'))
    st.caption(reading)


def region(content: str, label: str, attributes: str) -> str:
    """HTML that may be larger than the place it has: keyboards scroll what has the focus, screen readers name it."""
    return f'<div role="region" aria-label="{html.escape(label)}" tabindex="0" {attributes}>{content}</div>'


def or_stop(work: Callable[[], T]) -> T:
    """The result; when the input is at fault its sentence is shown and the page ends there."""
    try:
        return work()
    except TreeKVError as error:
        st.error(sentence(error))
        st.stop()


def sentence(error: object) -> str:
    """What is wrong, as markdown shows it as it is, with files named from the folder of runs on."""
    return plain(below_root(str(error)))


def below_root(text: str) -> str:
    """The text without the path to the folder of runs: where on the server that lies is nobody's business."""
    for path in (root().resolve(), root().absolute(), root()):
        name = str(path)
        if name not in ("/", "."):
            text = text.replace(f"{name}{os.sep}", "").replace(name, path.name)
    return text


def plain(text: str) -> str:
    """Text that markdown shows as it is: no links, pictures or emphasis from a file's name."""
    return re.sub(r"([\\`*_{}\[\]()#+!|<>~$:.-])", r"\\\1", text)


def _version(file: Path) -> tuple[str, int]:
    return str(file), file.stat().st_mtime_ns


@st.cache_resource(max_entries=6, show_spinner="Reading the run")
def _opened(path: str, changed: int, kind: str) -> xr.Dataset:
    """A file of a run, held while it does not change; `changed` is part of the key only."""
    openers = {
        "spectrum": analysis.open_spectrum,
        "trends": analysis.open_trends,
        "retention": analysis.open_retention,
    }
    return openers[kind](path)
