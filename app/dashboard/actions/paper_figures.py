"""Figures 1 and 2 of the paper, measured on a model in a job."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import xarray as xr

import analysis
from analysis.paper import figure1, figure2
from app.dashboard.session.jobs import Job
from app.runs.sample_text import sample_text
from treekv import TreeKVError

TOKENS: Final = 512  # the paper's
LEAST_WINDOWS, WINDOWS, MOST_WINDOWS = 2, 16, 96


@dataclass(frozen=True)
class Request:
    """What to measure.

    Attributes:
        model: what `treekv.load_model` takes.
        windows: of 512 tokens of the sample text, for figure 2.
        capture: the file of a captured text for figure 1; the first 512 tokens of the sample text if None.
    """

    model: str
    windows: int
    capture: Path | None


@dataclass(frozen=True)
class Measured:
    """The results, with what was asked for."""

    request: Request
    figure1: xr.Dataset
    figure2: xr.Dataset


def check(request: Request) -> None:
    """Raise TreeKVError, in one sentence, before any work."""
    if not request.model.strip():
        raise TreeKVError("no model is chosen; choose one, or type a folder or a hub id")
    if not LEAST_WINDOWS <= request.windows <= MOST_WINDOWS:
        raise TreeKVError(f"windows must be between {LEAST_WINDOWS} and {MOST_WINDOWS}, got {request.windows:,}")


def measure(request: Request, load_model: Callable[[str], tuple[Any, Any]], job: Job[Measured]) -> Measured:
    """The work of the job.

    Raises:
        TreeKVError: a model that is not there or cannot be measured, or a damaged capture.
    """

    def stage(number: int, words: str) -> Callable[[int, int], None]:
        text = f"{words} ({number} of 4)"
        job.step(100 * (number - 1), 400, text)
        return lambda done, total: job.step(100 * (number - 1) + 100 * done // max(total, 1), 400, text)

    stage(1, f"Loading {request.model}")
    model, tokenizer = load_model(request.model)
    progress = stage(2, "Reading a text")
    text = sample_text()
    if request.capture is None:
        captured = analysis.capture(
            model, tokenizer, text[: TOKENS * 100], max_tokens=TOKENS, queries=1, progress=progress
        )
    else:
        captured = analysis.open(request.capture, "capture")
    kept = figure1(captured, progress=stage(3, "Figure 1: what each policy keeps"))
    progress = stage(4, f"Figure 2: bands in {request.windows} windows")
    bands = figure2(model, tokenizer, text, TOKENS, request.windows, progress=progress)
    return Measured(request, kept, bands)
