"""Quality against budget on the page Compare: predicted in the background, measured on request, kept in the run."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Mapping
from typing import Final

import streamlit as st
import xarray as xr

import analysis
from analysis import plot
from analysis.prediction.budget_curve import as_curve, at_sizes, usual_sizes
from app.dashboard.actions import losses
from app.dashboard.session.messages import plain, sentence
from app.dashboard.widgets.figure import draw_figure
from app.dashboard.widgets.job_progress import show_job
from app.runs.folder import RunFolder
from app.text import captions, wording
from treekv import TreeKVConfig, TreeKVError
from treekv.resize import resized

JOB: Final = "curve-job"  # in the session: what was asked for, and the job
FIRST: Final = 2  # settings to begin with: a point of a curve is a pass of the model


def section(run: RunFolder, captured: analysis.Capture, compared: Mapping[str, TreeKVConfig]) -> None:
    """The curve of some of the compared settings, once it is asked for."""
    st.subheader("Loss against budget")
    reason = losses.why_not(run, captured, 0)
    names = _by_policy(compared)
    sizes = usual_sizes(captured.tokens)
    if reason or not names or not sizes:
        st.caption(reason or "There is no curve: no setting evicts anything, or the text is too short.")
        return
    if not st.toggle("Draw it", key="curve", bind="query-params", persist_state="session"):
        st.caption("How the loss of the compared policies on this text falls as they may keep more of it.")
        return
    chosen = st.multiselect("Policies", list(names), default=list(names)[:FIRST], key="curve-policies")
    if not chosen:
        st.info("Choose at least one policy.")
        return
    wanted: dict[tuple[str, int], TreeKVConfig] = {}
    for name, size in itertools.product(chosen, sizes):
        with contextlib.suppress(TreeKVError):  # a size that is too small for these settings is left out
            wanted |= at_sizes({name: names[name]}, [size])
    too_small = [f"{name} {size:,}" for name in chosen for size in sizes if (name, size) not in wanted]
    if too_small:
        st.caption(f"Left out, since these settings cannot be so small: {plain(wording.listed(too_small))}.")
    if not wanted:
        return
    flat = {f"{name} {size:,}": config for (name, size), config in wanted.items()}
    predicted, measured = (losses.Question(run, 0, kind) for kind in ("predicted", "measured"))
    asked = st.session_state.get(JOB)
    key = (str(run.path), *map(str, flat.values()))
    if asked is not None and asked[0] != key:
        asked[1].stop()
        asked = None
    missing = {losses.FULL, *flat} - {*predicted.known(flat)}
    try:
        if missing and asked is None:
            asked = st.session_state[JOB] = (key, losses.ask(predicted, flat))
        running = asked is not None and not asked[1].ended
        if {losses.FULL, *flat} - {*measured.known(flat)} and st.button(
            "Measure it", key="measure-curve", disabled=running, help="Streams the text through a real cache of each."
        ):
            asked = st.session_state[JOB] = (key, losses.ask(measured, flat))
    except TreeKVError as error:  # too many jobs
        st.caption(sentence(error))
    if asked is not None:
        show_job(asked[1])
    curves = {
        kind: as_curve(found, chosen, kind)
        for kind, question in (("predicted", predicted), ("measured", measured))
        if (found := _extra(question, wanted, flat))
    }
    if curves:
        draw_figure(lambda: plot.budget_curve(xr.Dataset(curves)), captions.BUDGET_CURVE, key="budget-curve")


def _by_policy(compared: Mapping[str, TreeKVConfig]) -> dict[str, TreeKVConfig]:
    """The compared settings without their sizes, each once, by title."""
    names: dict[str, TreeKVConfig] = {}
    for config in compared.values():
        if config.policy == losses.FULL:
            continue
        title = config.title
        if title in names and not _same_but_for_size(names[title], config):
            names[f"{title} ({len(names) + 1})"] = config
        else:
            names.setdefault(title, config)
    return names


def _same_but_for_size(one: TreeKVConfig, other: TreeKVConfig) -> bool:
    try:
        return resized(one, other.cache_size) == other
    except TreeKVError:
        return False


def _extra(
    question: losses.Question, wanted: Mapping[tuple[str, int], TreeKVConfig], flat: Mapping[str, TreeKVConfig]
) -> dict[tuple[str, int], float]:
    """What is known, above the full cache, nats a token."""
    known = question.known(flat)
    if losses.FULL not in known:
        return {}
    pairs = zip(wanted, flat, strict=True)
    return {pair: known[name].loss - known[losses.FULL].loss for pair, name in pairs if name in known}
