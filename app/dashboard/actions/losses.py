"""The loss of the settings on the page Compare: predicted in the background, measured on request, cached by setting;
and what they find of numbers that are hidden in the text, on request too."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import streamlit as st
import xarray as xr

import analysis
from app.dashboard.session import jobs, loaded_model
from app.dashboard.session.run import default_model, open_capture
from app.runs import folder as run_folder
from app.runs.captured_model import check_known
from app.runs.folder import RunFolder
from treekv import TreeKVConfig, TreeKVError

FULL: Final = "full"
Kind = Literal["predicted", "measured", "needles"]
_TITLES: Final[dict[Kind, str]] = {
    "predicted": "Predicting the loss",
    "measured": "Measuring the loss",
    "needles": "Looking for hidden numbers",
}


class Entry(NamedTuple):
    """The losses of one setting: a table of `analysis.replay` or `analysis.measure` with one row; or what it found, a
    table of `analysis.find_needles`."""

    table: xr.Dataset

    @property
    def loss(self) -> float:
        """The mean, nats a token."""
        return float(self.table["loss"].values.astype(np.float64).mean())

    def found(self, question: str) -> int:
        """How many of the hidden numbers it found, with the question "given" or "withheld"."""
        return int(self.table["found"].sel(question=question).sum())

    @property
    def dtype(self) -> str:
        """What the model computed in."""
        return str(self.table.attrs["dtype"])


class Question(NamedTuple):
    """Which losses are asked for: of a run's text, after a prompt of so many tokens."""

    run: RunFolder
    prompt: int
    kind: Kind

    def entry(self, config: TreeKVConfig) -> dict[str, Entry]:
        """The place of one setting's losses, shared by all sessions and kept in the run: empty until they are known."""
        file = self.run.file(run_folder.CAPTURE)
        return _entry(str(self.file(config)), file.stat().st_mtime_ns, self.kind)

    def file(self, config: TreeKVConfig) -> Path:
        """Where the run keeps one setting's losses."""
        asked = json.dumps([self.prompt, config.to_dict()]).encode()
        name = f"{self.kind}-{hashlib.sha256(asked).hexdigest()[:16]}.nc"
        return self.run.inside(f"{run_folder.LOSSES}/{name}")

    def known(self, configs: Mapping[str, TreeKVConfig]) -> dict[str, Entry]:
        """The losses that are known, by name, that of the full cache under "full"."""
        every = {FULL: TreeKVConfig(policy=FULL), **configs}
        return {name: found[FULL] for name, config in every.items() if (found := self.entry(config))}


def by_kind(run: RunFolder, prompt: int, configs: Mapping[str, TreeKVConfig]) -> dict[Kind, dict[str, Entry]]:
    """Predicted and measured losses by name, each kind of which the full cache's and another one are known."""
    kinds: list[Kind] = ["predicted", "measured"]
    known = {kind: Question(run, prompt, kind).known(configs) for kind in kinds}
    return {kind: entries for kind, entries in known.items() if FULL in entries and len(entries) > 1}


@st.cache_resource(max_entries=256, show_spinner=False)
def _entry(path: str, changed: int, kind: Kind) -> dict[str, Entry]:
    """What the file at `path` has of the capture that was last changed then; empty where there is none to read."""
    try:
        if Path(path).stat().st_mtime_ns < changed:
            return {}
        return {FULL: Entry(analysis.open(path, "needles" if kind == "needles" else "token-loss"))}
    except (OSError, TreeKVError):  # it is found anew
        return {}


def why_not(run: RunFolder, captured: analysis.Capture, prompt: int) -> str:
    """One sentence on why the loss of this text cannot be had; empty if it can, as far as is known before the model is
    loaded."""
    try:
        check_known(default_model(run), captured.model)
    except TreeKVError:
        return f"There is no predicted loss: the run does not say where its model {captured.model!r} is."
    if prompt > captured.tokens - 2:
        return "There is no predicted loss: nothing follows the prompt."
    return ""


def joined(known: Mapping[str, Entry]) -> xr.Dataset:
    """One table of what is known, the full cache first."""
    names = [FULL, *(name for name in known if name != FULL)]
    parts = [known[name].table.assign_coords(policy=[name]) for name in names]
    return xr.concat(parts, "policy", combine_attrs="override")


def ask(question: Question, configs: Mapping[str, TreeKVConfig]) -> jobs.Job[None]:
    """Start a job that finds the losses that are not known yet; each is there as soon as it is found.

    What was asked for with a button, and may take minutes, goes on when the page is closed: see `of_another_tab`.
    """
    known = question.known(configs)
    # Without the loss of the full cache, which comes with that of any setting, the others say nothing.
    missing = {name: config for name, config in configs.items() if FULL not in known or name not in known}
    return jobs.submit(
        jobs.owner(),
        _TITLES[question.kind],
        partial(_work, question=question, missing=missing),
        makes="" if question.kind == "predicted" else _made(question.run),
    )


def ask_anew(
    place: str, key: tuple[Any, ...], question: Question, configs: Mapping[str, TreeKVConfig]
) -> tuple[tuple[Any, ...], jobs.Job[None]] | None:
    """Stop what the session asked for under `place` before, and ask this: what `key` stands for, and the job, kept
    there. None, with the reason on the page, if too many jobs wait."""
    before = st.session_state.get(place)
    if before is not None:
        before[1].stop()
    try:
        asked = st.session_state[place] = (key, ask(question, configs))
    except TreeKVError as error:
        st.caption(str(error))
        return None
    return asked


def of_another_tab(run: RunFolder) -> jobs.Job[None] | None:
    """The job by which another session, which may have ended, measures this run or asks it for hidden numbers."""
    return next((job for job in jobs.making(_made(run)) if job.owner != jobs.owner()), None)


def _made(run: RunFolder) -> str:
    return f"losses of {run.path}"


def _work(job: jobs.Job[None], question: Question, missing: Mapping[str, TreeKVConfig]) -> None:
    job.report(0, 0, "loading the model")
    model, tokenizer = loaded_model.get(default_model(question.run))
    captured = open_capture(question.run)
    if question.kind == "needles":
        _keep(
            question,
            missing,
            analysis.find_needles(
                model, tokenizer, captured, missing, prompt=question.prompt, progress=partial(job.step, text="asking")
            ),
        )
        return
    if question.kind == "measured":
        _keep(question, missing, analysis.measure(model, captured, missing, prompt=question.prompt, progress=job.step))
        return
    for number, (name, config) in enumerate(missing.items()):
        text = f"{name}, {number + 1} of {len(missing)}"
        # One after another, so that what is finished when the job is stopped is not lost.
        first = not question.known({})
        table = analysis.replay(
            model,
            captured,
            {name: config},
            full=first,
            prompt=question.prompt,
            progress=partial(job.step, text=text),
        )
        _keep(question, {name: config}, table)


def _keep(question: Question, configs: Mapping[str, TreeKVConfig], table: Any) -> None:
    every = {FULL: TreeKVConfig(policy=FULL), **configs}
    for name in table["policy"].values.tolist():
        entry = Entry(table.sel(policy=[name]))
        question.entry(every[name])[FULL] = entry
        file = question.file(every[name])
        file.parent.mkdir(exist_ok=True)
        analysis.save(entry.table, file)
