"""The picture on Start: what the open run, or the example that comes with TreeKV, keeps, as a map and as text.

Nothing here loads torch or transformers, so that the picture is there within a second or two of the server's start.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import streamlit as st
import xarray as xr

import analysis
from analysis.plot.retained_text import text_retention
from analysis.plot.still_map import still_eviction_map
from app.dashboard.session.run import open_retention, policies_of
from app.dashboard.widgets.figure import draw_html, draw_text
from app.runs.folder import RunFolder
from app.text import captions, wording
from treekv.errors import TreeKVError

EXAMPLE: Final = Path(__file__).parents[1] / "example.nc"  # a retention record, see tests/example_record.py
EXAMPLE_WORDS: Final = "An example: SmolLM2-135M reads Python's own language reference. Make a run of your own text."
TREE: Final = "TreeKV"  # the title of the policy "tree", which most runs have: the registry of titles loads torch
SHOWN_TOKENS: Final = 160  # of the end of the text


def draw(run: RunFolder | None) -> None:
    """The eviction map of the run's first policy and the end of its text; the example where there is none."""
    try:
        if run is None:
            raise TreeKVError("no run is open")
        record = open_retention(run, stop=False)
    except TreeKVError:
        record = example()
        st.caption(EXAMPLE_WORDS)
    policy = policies_of(record)[0]
    name = TREE if policy == "tree" else wording.policy_title(policy)
    titled = record.sel(policy=[policy]).assign_coords(policy=[name])
    draw_html(lambda: still_eviction_map(titled), captions.EVICTION_MAP)
    if "token" in record.coords:
        tokens = int(record.attrs["steps"])
        first = max(tokens - SHOWN_TOKENS, 0)
        draw_text(lambda: text_retention(titled, start=first), captions.TEXT_AT_END, from_end=True)
    if run is not None:
        st.page_link("views/eviction_map.py", label="Step by step", icon=":material/arrow_forward:")


@st.cache_resource(show_spinner=False)
def example() -> xr.Dataset:
    """The record that comes with TreeKV, of policy "tree"."""
    return analysis.open(EXAMPLE, "retention")
