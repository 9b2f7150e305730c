"""The middle of a text: what the paper's figure shows, between the protected tokens at both ends, cut into runs.

A run is as long as the support of one coefficient of the coarsest band, so that the amplitude of no band counts twice.
For Haar at 5 levels that is 32 positions, the paper's own margin: a sink left in the transform cannot reach the middle.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import xarray as xr

from treekv.errors import TreeKVError

MARGIN = 32  # positions that the paper leaves out at each end
LEVELS = 5  # of the paper's transform
WINDOW = 64  # positions at each end of the middle that are compared
LEAST_RUNS = 3


class Middle(NamedTuple):
    """Positions `start` to `stop` - 1, in runs of `run` positions; `window` runs at each end are compared."""

    start: int
    stop: int
    run: int
    window: int

    @classmethod
    def of(cls, spectrum: xr.Dataset, margins: tuple[int, int] | None = None) -> Middle:
        """The middle of a spectrum that has the bands to be tested only.

        `margins` are the positions left out at the beginning and the end; None for the paper's 32 and 32, the first
        one longer where a sink in the transform reaches further. Raises TreeKVError for margins that are no two whole
        numbers, that let a sink into the middle, or that leave fewer than 3 runs.
        """
        position = spectrum["position"].values
        run = int(spectrum["support"].max())
        # Coefficients of the decimated Haar transform lie side by side; those of every other transform overlap.
        disjoint = run == 2 ** int(spectrum["level"].max())
        inside = spectrum.attrs.get("sinks", "include") == "include"
        origin = 0 if inside else int(position[0])
        sinks = int(spectrum.attrs.get("sink_count", 0)) if inside else 0
        reach = (-(-sinks // run) * run if disjoint else sinks - 1 + run) if sinks else 0
        first, last = _checked(margins) if margins is not None else (max(MARGIN, reach), MARGIN)
        if first < reach:
            raise TreeKVError(
                f"the first margin is {first}, but the sinks are in the transform and reach position {reach - 1} in "
                f"{spectrum['band'].values[0]}; give at least {reach}, or take the spectrum with sinks='separate'"
            )
        start = max(first, int(position[0]))
        if disjoint:
            start += -(start - origin) % run
        count = (int(position[-1]) + 1 - last - start) // run
        if count < LEAST_RUNS:
            raise TreeKVError(
                f"between the margins of {first} and {last} positions the text has {max(count, 0)} runs of {run} "
                f"positions, the length of a coefficient of {spectrum['band'].values[0]}; the paper's comparison needs "
                f"at least {LEAST_RUNS}: use a longer text, fewer levels or protocol='to the last token'"
            )
        window = max(1, min(WINDOW, count * run // 3) // run)
        return cls(start, start + count * run, run, window)

    def runs(self, amplitude: np.ndarray, position: np.ndarray) -> np.ndarray:
        """Means over the runs of amplitude [..., position], as [..., run] in float64."""
        first = self.start - int(position[0])
        inside = amplitude[..., first : first + self.stop - self.start].astype(np.float64)
        return inside.reshape(*inside.shape[:-1], -1, self.run).mean(-1)


def _checked(margins: tuple[int, int]) -> tuple[int, int]:
    try:
        first, last = margins
        if any(isinstance(m, bool) or int(m) != m or m < 0 for m in (first, last)):
            raise ValueError
    except (TypeError, ValueError):
        raise TreeKVError(
            f"margins is {margins!r}; give two numbers of positions, those left out at the beginning and at the end, "
            "such as (32, 32)"
        ) from None
    return int(first), int(last)


def claimed_bands(spectrum: xr.Dataset) -> xr.Dataset:
    """The bands that the paper's claims are about: the details D1 ... D5; of packets all but the lowest."""
    level = spectrum["level"].values
    detail = np.arange(len(level)) > 0  # the lowest band is the approximation
    return spectrum.isel(band=np.flatnonzero(detail & (level <= LEVELS)))


def last_queries(spectrum: xr.Dataset) -> np.ndarray:
    """The amplitude that the last query of each sample sees, [sample, band, position].

    A text is one sample, or, where several queries are at its last position, as many (`analysis.paper.figure2` cuts
    texts into windows).
    """
    owner, query = spectrum["text"].values, spectrum["query"].values
    last = {text: query[owner == text].max() for text in np.unique(owner)}
    rows = [row for row, (text, t) in enumerate(zip(owner, query, strict=True)) if t == last[text]]
    return np.asarray(spectrum["query_amplitude"].transpose("query", "band", "position").values[rows])
