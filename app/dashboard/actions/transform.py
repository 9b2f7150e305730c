"""Another wavelet, boundary or treatment of the sinks: the spectrum taken anew from the run's capture, in a job."""

from __future__ import annotations

import functools
from typing import Any, Final, NamedTuple

import pywt
import streamlit as st
import xarray as xr

import analysis
from app.dashboard.session import jobs
from app.dashboard.session.jobs import Job
from app.dashboard.session.messages import or_stop
from app.dashboard.session.run import open_spectrum, open_trends
from app.dashboard.widgets.job_progress import show_job
from app.runs import folder as run_folder
from app.runs.folder import RunFolder

WAVELETS: Final = ("haar", "db2", "db4", "db8", "sym4", "sym8", "coif1", "coif3", "bior2.2", "bior4.4", "dmey")
SINKS: Final = {"separate": "taken out before the transform", "include": "left in the transform"}


class Transform(NamedTuple):
    """What can be chosen of the transform; the default is what every run's own spectrum was taken with."""

    wavelet: str = "haar"
    mode: str = "symmetric"
    sinks: str = "separate"


def choose() -> Transform:
    """The three selectors; the choice lives in the address."""
    wavelet, mode, sinks = st.columns(3)
    with wavelet:
        name = _select("Wavelet", list(WAVELETS), "wavelet", "Haar compares means of neighbouring stretches.")
    with mode:
        boundary = _select(
            "Boundary",
            sorted(pywt.Modes.modes, key=lambda mode: mode != "symmetric"),
            "mode",
            "How the text is taken to go on beyond its ends.",
        )
    with sinks:
        treatment = _select(
            "First tokens", list(SINKS), "sinks", "An attention sink that is left in leaks into the low bands.", SINKS
        )
    return Transform(name, boundary, treatment)


def spectrum_and_trends(run: RunFolder, chosen: Transform) -> tuple[xr.Dataset, xr.Dataset]:
    """Both for the chosen transform; while they are computed the page shows how far that is, and ends there."""
    if chosen == Transform():
        return open_spectrum(run), open_trends(run)
    capture = or_stop(lambda: run.file(run_folder.CAPTURE))
    results = _results(str(capture), capture.stat().st_mtime_ns, chosen)
    if "trends" in results:
        return results["spectrum"], results["trends"]
    job = st.session_state.get("transforming")
    if job is None or job[0] != (str(capture), chosen):
        if job is not None:
            job[1].stop()
        work = functools.partial(_compute, path=str(capture), chosen=chosen, results=results)
        title = f"Taking the spectrum with {chosen.wavelet}"
        job = (str(capture), chosen), or_stop(lambda: jobs.submit(jobs.owner(), title, work))
        st.session_state["transforming"] = job
    show_job(job[1])
    if job[1].ended and st.button("Try again"):
        del st.session_state["transforming"]
        st.rerun()
    st.stop()


def _compute(job: Job[None], path: str, chosen: Transform, results: dict[str, xr.Dataset]) -> None:
    job.step(0, 1, "reading the capture")
    run = analysis.open(path, "capture")
    options: dict[str, Any] = chosen._asdict()
    spectrum = analysis.spectrum(
        run, **options, progress=lambda done, total: job.step(done, total + 1, f"layer {done} of {total}")
    )
    job.report(job.total - 1, job.total, "testing the claims")
    results.update(spectrum=spectrum, trends=analysis.trends(spectrum))


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
def _results(path: str, changed: int, chosen: Transform) -> dict[str, xr.Dataset]:
    """Where a job puts what it found, for all sessions; the oldest of three are let go."""
    return {}
