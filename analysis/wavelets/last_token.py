"""The comparison "to the last token": the last positions of a text against its first quarter, in every band.

Other than the paper it takes in the tokens just read, which a cache protects anyway, and compares them with the far
past. It can be asked of every transform: 8 levels, packets, the stationary one, with the sinks taken out or left in.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from analysis.wavelets.growth import TAIL, Ends
from analysis.wavelets.trend_statistics import (
    MAX_RUNS,
    Estimates,
    Runs,
    bootstrap,
    permutation_null,
    permutation_nulls,
    spearman_batch,
)
from treekv.errors import TreeKVError

LEAST_POSITIONS = 32

_LEAST_RUNS = 6  # with fewer runs the 5 % level cannot be reached, or means nothing
_LEAST_BANDS = 4
_GREW = 1.1  # growth of up to a tenth counts as none
_ALPHA = 0.05

RULES = (
    f"Amplitude is averaged over layers, query heads, queries and texts. Growth is the mean over the last {TAIL} "
    "positions (the last quarter, if shorter) divided by the mean over the first quarter, sinks left out of both. "
    f"For slope and rank correlation a band is averaged over runs of positions, at most {MAX_RUNS}, none shorter "
    "than what one coefficient of the band reaches. Intervals are 95 % bootstrap intervals over texts and, within "
    "them, queries. p-values are one-sided, for a rise, against runs of the same length in shuffled order. "
    f"Claim (i) in a band: it grew if growth's interval lies above {_GREW}, it did not if the interval lies at or "
    f"below {_GREW}; it rises if the Spearman correlation of amplitude and position is positive with p < {_ALPHA}. "
    "The claim holds if the band grew and rises, fails if it did not grow and does not rise, and is else not "
    f"decided, as it is with fewer than {_LEAST_RUNS} runs. Overall it holds if it holds in every band, fails if it "
    "fails in any, else it is not decided. Claim (ii): one sign is that the band of largest growth is in the highest "
    f"third and that this growth exceeds {_GREW}, the other that growth rises from the lowest band to the highest "
    f"with a positive Spearman correlation, p < {_ALPHA}. It holds if both are so, fails if neither is, and is not "
    f"decided if they disagree or there are fewer than {_LEAST_BANDS} bands."
)


def last_token_trends(spectrum: xr.Dataset, resamples: int, seed: int) -> xr.Dataset:
    """The Dataset of `analysis.trends` with protocol="to the last token", without what both protocols share."""
    amplitude = spectrum["amplitude"]
    length = amplitude.sizes["position"]
    if length < LEAST_POSITIONS:
        raise TreeKVError(
            f"the spectrum has {length} positions; a trend needs at least {LEAST_POSITIONS}: use a longer text"
        )
    ends = Ends.of(length)
    mean = amplitude.mean(("layer", "head")).values.astype(np.float64)
    by_head = ends.growth(amplitude.transpose("layer", "head", "band", "position").values)
    runs = [Runs.of(int(width), spectrum) for width in spectrum["support"].values]
    generator = np.random.default_rng(seed)

    found = Estimates.of(mean, runs, ends)
    low, high = bootstrap(spectrum, lambda sample: Estimates.of(sample, runs, ends).flat(), resamples, generator)
    against = [permutation_nulls(band, run, ends, resamples, generator) for band, run in zip(mean, runs, strict=True)]
    p_values = {name: np.array([null[name].p_value for null in against]) for name in against[0]}
    limits = {name: np.array([null[name].limit for null in against]) for name in against[0]}
    count = np.array([len(run.starts) for run in runs], np.int32)
    claim_i = [
        _claim_i(*row)
        for row in zip(
            found.growth,
            low.growth,
            high.growth,
            found.rank_correlation,
            p_values["rank_correlation"],
            count,
            strict=True,
        )
    ]
    claim_ii, order_p = _claim_ii(found.growth, found.order, resamples, generator)
    bands = [str(band) for band in spectrum["band"].values]
    numbers = {}
    for name, unit in (("growth", "1"), ("slope", "natural logarithm per 1,000 positions"), ("rank_correlation", "1")):
        for suffix, source in (("", found), ("_low", low), ("_high", high)):
            numbers[name + suffix] = ("band", getattr(source, name), {"units": unit})
        numbers[name + "_null"] = ("band", limits[name], {"units": unit})
    return xr.Dataset(
        {
            **numbers,
            "growth_p_value": ("band", p_values["growth"]),
            "slope_p_value": ("band", p_values["slope"]),
            "p_value": ("band", p_values["rank_correlation"]),
            "runs": ("band", count),
            "claim_i": ("band", np.asarray(claim_i)),
            "growth_by_head": (("layer", "head", "band"), by_head.astype(np.float32)),
            "share_growing": ("band", (by_head > _GREW).mean((0, 1))),
        },
        coords={name: spectrum.coords[name] for name in ("band", "level", "layer", "head")},
        attrs={
            "claim_i": in_every_band(claim_i),
            "claim_ii": claim_ii,
            "claim_ii_correlation": found.order,
            "claim_ii_correlation_low": low.order,
            "claim_ii_correlation_high": high.order,
            "claim_ii_p_value": order_p,
            "claim_ii_top_band": bands[int(np.argmax(found.growth))],
            "first_positions": ends.quarter,
            "last_positions": ends.tail,
            "rules": RULES,
        },
    )


def _claim_i(growth: float, low: float, high: float, correlation: float, p_value: float, runs: int) -> str:
    if runs < _LEAST_RUNS or np.isnan(growth):
        return "not decided"
    low, high = (growth if np.isnan(end) else end for end in (low, high))
    rises = correlation > 0 and p_value < _ALPHA
    if low > _GREW and rises:
        return "holds"
    return "fails" if high <= _GREW and not rises else "not decided"


def in_every_band(words: list[str]) -> str:
    """The verdict on all bands from those on each."""
    if "fails" in words:
        return "fails"
    return "not decided" if "not decided" in words else "holds"


def _claim_ii(
    growth: np.ndarray, correlation: float, resamples: int, generator: np.random.Generator
) -> tuple[str, float]:
    if len(growth) < _LEAST_BANDS or not np.isfinite(growth).all():
        return "not decided", np.nan
    p_value = permutation_null(growth, spearman_batch, resamples, generator).p_value
    top = int(np.argmax(growth))
    at_top = top >= len(growth) - len(growth) // 3 and growth[top] > _GREW
    rises = correlation > 0 and p_value < _ALPHA
    if at_top and rises:
        return "holds", p_value
    return ("not decided" if at_top or rises else "fails"), p_value
