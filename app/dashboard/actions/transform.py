"""A spectrum other than the run's own: another wavelet, boundary or treatment of the sinks, computed in a job."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import pywt
import streamlit as st
import xarray as xr

import analysis
from analysis import WaveletOptions, plot
from app.dashboard.session import jobs
from app.dashboard.session.jobs import Job
from app.dashboard.session.keys import TEXTS
from app.dashboard.session.messages import or_stop
from app.dashboard.session.run import open_beyond, open_capture, open_spectrum, open_trends
from app.dashboard.session.settings import current_settings
from app.dashboard.session.texts import choose_others
from app.dashboard.widgets.figure import draw_figure
from app.dashboard.widgets.job_progress import show_job
from app.runs import folder as run_folder
from app.runs.folder import RunFolder
from app.text import captions
from treekv import TreeKVError

WAVELETS: Final = ("haar", "db2", "db4", "db8", "sym4", "sym8", "coif1", "coif3", "bior2.2", "bior4.4", "dmey")
SINKS: Final = {"include": "left in the transform", "separate": "removed before the transform"}
JOB: Final = "transforming"  # in the session: (what is computed, the job)
Versions = tuple[tuple[str, int], ...]  # files, and when each was last changed


def choose_options() -> WaveletOptions:
    """Three selectors, whose choice is kept in the address. The defaults are those of every run's own spectrum."""
    wavelet, mode, sinks = st.columns(3)
    default = WaveletOptions()
    with wavelet:
        name = _select("Wavelet", list(WAVELETS), "wavelet", "Haar compares the means of neighbouring stretches.")
    with mode:
        boundary = _select(
            "Boundary",
            sorted(pywt.Modes.modes, key=lambda mode: mode != default.mode),
            "mode",
            "How the signal is extended beyond both ends of the text.",
        )
    with sinks:
        treatment = _select(
            "First tokens", list(SINKS), "sinks", "An attention sink left in leaks into the low bands.", SINKS
        )
    return WaveletOptions(wavelet=name, mode=boundary, sinks=treatment)


def choose_texts(run: RunFolder) -> list[RunFolder]:
    """The open run, and others whose texts are averaged with its own."""
    tokens = _tokens(run)
    hint = "Figures then show means over the texts, which need as many tokens; the claims are tested on all of them."

    def fits(other: RunFolder) -> bool:
        return other.has(run_folder.SPECTRUM) and _tokens(other) == tokens

    return [run, *choose_others(run, TEXTS[0], fits, hint)]


def _tokens(run: RunFolder) -> int | None:
    found: int | None = run.manifest.get("text", {}).get("tokens")
    return found


class Found(NamedTuple):
    """What the page shows: a spectrum, and the tests of the claims in the paper's comparison and beyond it.

    `trends` is None where the text is too short for the paper's comparison with this wavelet, and `reason` says so;
    `beyond` is None in a run from before there were two comparisons, whose `trends` are to the last token.
    """

    spectrum: xr.Dataset
    trends: xr.Dataset | None
    beyond: xr.Dataset | None
    reason: str = ""


def spectrum_and_trends(runs: Sequence[RunFolder], options: WaveletOptions) -> Found:
    """All for these options, as means over the texts of the runs. While they are computed the page shows the job's
    progress, and ends there."""
    if options == WaveletOptions():
        if len(runs) == 1:
            return Found(open_spectrum(runs[0]), open_trends(runs[0]), open_beyond(runs[0]))
        return or_stop(lambda: _mean(_versions(runs, run_folder.SPECTRUM)))
    captures = or_stop(lambda: _versions(runs, run_folder.CAPTURE))
    results = _results(captures, options)
    if results:
        return results[0]
    wanted = (captures, options)
    running: tuple[tuple[Versions, WaveletOptions], Job[None]] | None = st.session_state.get(JOB)
    if running is None or running[0] != wanted:
        if running is not None:
            running[1].stop()
        work = functools.partial(_compute, captures=captures, options=options, results=results)
        title = f"Computing the spectrum with {options.wavelet}"
        running = wanted, or_stop(lambda: jobs.submit(jobs.owner(), title, work))
        st.session_state[JOB] = running
    job = running[1]
    show_job(job)
    if job.ended and st.button("Try again"):
        del st.session_state[JOB]
        st.rerun()
    st.stop()


def growth_words(trends: xr.Dataset, layer: int | None, head: int | None) -> str:
    """How far the bands grow in one layer, one head or both, in words; empty where the trends do not have it.

    The verdict itself is over all layers and heads: a single one has too few numbers for a test.
    """
    part = {name: value for name, value in (("layer", layer), ("head", head)) if value is not None}
    if "growth_by_head" not in trends or not all(value in trends[name].values for name, value in part.items()):
        return ""
    growth = trends["growth_by_head"].sel(part)
    growth = growth.mean([dim for dim in growth.dims if dim != "band"])
    bands = {str(band): float(growth.sel(band=band)) for band in growth["band"].values[::-1]}
    grown = [band for band, ratio in bands.items() if ratio > 1]
    where = ", ".join(f"{name} {value}" for name, value in part.items())
    return (
        f"In {where} alone {len(grown)} of {len(bands)} bands grow, most {max(bands, key=bands.__getitem__)}: "
        f"{', '.join(f'{band} {ratio:.2f}' for band, ratio in bands.items())} times."
    )


def show_need(run: RunFolder) -> None:
    """How many tokens each KV head needs, if the run has gradients of the loss and is long enough to tell."""
    if not run.has(run_folder.CAPTURE):
        return
    captured = or_stop(lambda: open_capture(run))
    changed = run.file(run_folder.CAPTURE).stat().st_mtime_ns
    budgets = _need(str(run.path), changed, current_settings(run).cache_size, captured)
    if budgets is not None:
        st.subheader("What each head needs")
        draw_figure(lambda: plot.need_budgets(budgets), captions.NEED, key="need")


@st.cache_resource(max_entries=8, show_spinner="Measuring what each head needs")
def _need(path: str, changed: int, cache_size: int, _captured: analysis.Capture) -> xr.DataArray | None:
    if not _captured.has_sensitivity:
        return None
    try:
        return analysis.need_budgets(analysis.need(_captured), cache_size)
    except TreeKVError:  # the text has no far context
        return None


def _compute(job: Job[None], captures: Versions, options: WaveletOptions, results: list[Found]) -> None:
    spectra, texts = [], len(captures)
    for number, (path, _) in enumerate(captures):
        which = f", text {number + 1} of {texts}" if texts > 1 else ""
        job.step(number, texts, f"reading the capture{which}")

        def show(done: int, total: int, number: int = number, which: str = which) -> None:
            job.step(number + done / (total + 1), texts, f"layer {done} of {total}{which}")

        spectra.append(analysis.spectrum(analysis.open(path, "capture"), options, progress=show))
    job.report(job.done, texts, "testing the claims")
    results.append(_tested(spectra, captures))


def _tested(spectra: Sequence[xr.Dataset], files: Versions) -> Found:
    """The mean of the spectra, and the claims on it. Raises TreeKVError for a run with other layers than the first."""
    for spectrum, (path, _) in zip(spectra[1:], files[1:], strict=True):
        if not np.array_equal(spectrum["layer"], spectra[0]["layer"]):
            raise TreeKVError(
                f"the run {Path(path).parent.name!r} has other layers than {Path(files[0][0]).parent.name!r}; choose "
                "runs with the same layers"
            )
    spectrum = analysis.mean_spectrum(spectra)
    beyond = analysis.trends(spectrum, protocol="to the last token")
    try:
        return Found(spectrum, analysis.trends(spectrum), beyond)
    except TreeKVError as error:  # a long wavelet has no coefficient that keeps away from both ends
        return Found(spectrum, None, beyond, str(error))


@st.cache_resource(max_entries=3, show_spinner="Averaging over the texts")
def _mean(spectra: Versions) -> Found:
    return _tested([analysis.open(path, "spectrum") for path, _ in spectra], spectra)


def _versions(runs: Sequence[RunFolder], name: str) -> Versions:
    """A file of each run, and when it was last changed. Raises TreeKVError where one lacks it."""
    files = [run.file(name) for run in runs]
    return tuple((str(file), file.stat().st_mtime_ns) for file in files)


def _select(label: str, options: list[str], key: str, hint: str, titles: dict[str, str] | None = None) -> str:
    chosen = st.selectbox(
        label,
        options,
        key=key,
        bind="query-params",
        persist_state="session",
        help=hint,
        format_func=lambda name: (titles or {}).get(name, name),
    )
    return chosen or options[0]


@st.cache_resource(max_entries=3, show_spinner=False)
def _results(captures: Versions, options: WaveletOptions) -> list[Found]:
    """Where a job puts its results, for all sessions; the three last ones are kept."""
    return []
