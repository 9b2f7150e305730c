"""The paper's two claims about the spectrum, tested in numbers.

    result = trends(spectrum(run))
    result.attrs["claim_i"]           # "holds", "fails" or "not decided"
    result["growth"].sel(band="D1")   # amplitude at the end over amplitude at the start

Source: PAPER.md section 1 (He et al., TreeKV, arXiv 2501.04987); the decision rules are ours and stand in
`RULES`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from scipy import stats

from analysis import store
from treekv.errors import TreeKVError

FORMAT = "treekv-trends"
LEAST_POSITIONS = 32

_TAIL = 64  # positions at the end
_MAX_RUNS = 128  # Theil-Sen looks at every pair of runs
_LEAST_RUNS = 6  # fewer runs cannot reach the 5 % level in a way that means anything
_LEAST_BANDS = 4
_GREW = 1.1  # growth up to a tenth counts as none
_ALPHA = 0.05

RULES = (
    f"Amplitude is averaged over layers and query heads. Growth is the mean over the last {_TAIL} "
    "positions (the last quarter, if shorter) divided by the mean over the first quarter, sinks left "
    f"out. For the rank test a band is averaged over runs of positions, at most {_MAX_RUNS}, none "
    f"shorter than one coefficient of the band. Claim (i) in a band: holds if growth exceeds {_GREW} and "
    f"the Spearman correlation of amplitude and position is positive with p < {_ALPHA}; fails if neither "
    f"is so; not decided if they disagree or there are fewer than {_LEAST_RUNS} runs. Overall it holds "
    "if it holds in every band, fails if it fails in any, else it is not decided. Claim (ii): one sign "
    f"is that the band of largest growth is in the highest third and that growth exceeds {_GREW}, the "
    "other that growth rises from the lowest band to the highest with a positive Spearman correlation, "
    f"p < {_ALPHA}. It holds if both are so, fails if neither is, and is not decided if they disagree or "
    f"there are fewer than {_LEAST_BANDS} bands. Every p is one-sided, for a rise."
)


def trends(spectrum: xr.Dataset) -> xr.Dataset:
    """Does amplitude (i) grow towards the end in every band, and (ii) most in the highest bands?

    Returns a Dataset over band, lowest first, and (layer, head, band):
      growth            (band)  mean over the last 64 positions / mean over the first quarter
      slope             (band)  Theil-Sen slope of log amplitude per 1,000 positions; 95 % interval from
                                slope_low to slope_high
      rank_correlation  (band)  Spearman's, amplitude against position; p_value is one-sided, for a rise
      runs              (band)  number of runs of positions behind slope and correlation
      claim_i           (band)  "holds", "fails", "not decided"
      growth_by_head    (layer, head, band)  the same growth without averaging
      share_growing     (band)  share of heads whose growth exceeds 1.1
    attrs: claim_i, claim_ii (the same three words), claim_ii_correlation, claim_ii_p_value, claim_ii_top_band
    and `rules`, the exact decision rules in words.

    Neighbouring queries and heads are not independent, so the p-values order the evidence and are no more
    than that. Raises TreeKVError for a spectrum of fewer than 32 positions.
    """
    amplitude = spectrum["amplitude"]
    length = amplitude.sizes["position"]
    if length < LEAST_POSITIONS:
        raise TreeKVError(
            f"the spectrum has {length} positions; a trend needs at least {LEAST_POSITIONS}: take more text"
        )
    quarter = length // 4
    tail = min(_TAIL, quarter)
    mean = amplitude.mean(("layer", "head")).values.astype(np.float64)
    growth = _growth(mean, quarter, tail)
    by_head = _growth(amplitude.values, quarter, tail)

    rows = [_band_trend(band, int(level)) for band, level in zip(mean, spectrum["level"].values, strict=True)]
    slope, low, high, correlation, p_value, runs = (np.array(column) for column in zip(*rows, strict=True))
    claim_i = [_claim_i(*row) for row in zip(growth, correlation, p_value, runs, strict=True)]
    claim_ii, order = _claim_ii(growth)
    bands = [str(band) for band in spectrum["band"].values]
    return xr.Dataset(
        {
            "growth": ("band", growth),
            "slope": ("band", slope, {"units": "natural logarithm per 1,000 positions"}),
            "slope_low": ("band", low),
            "slope_high": ("band", high),
            "rank_correlation": ("band", correlation),
            "p_value": ("band", p_value),
            "runs": ("band", runs.astype(np.int32)),
            "claim_i": ("band", np.asarray(claim_i)),
            "growth_by_head": (("layer", "head", "band"), by_head.astype(np.float32)),
            "share_growing": ("band", (by_head > _GREW).mean((0, 1))),
        },
        coords={name: spectrum.coords[name] for name in ("band", "level", "layer", "head")},
        attrs={
            **{
                name: spectrum.attrs[name]
                for name in ("model", "wavelet", "mode", "transform", "sinks", "sink_count")
                if name in spectrum.attrs
            },
            "format": FORMAT,
            "format_version": store.FORMAT_VERSION,
            "claim_i": _overall(claim_i),
            "claim_ii": claim_ii,
            "claim_ii_correlation": float(order.statistic),
            "claim_ii_p_value": float(order.pvalue),
            "claim_ii_top_band": bands[int(np.argmax(growth))],
            "first_positions": quarter,
            "last_positions": tail,
            "rules": RULES,
            **store.versions(),
        },
    )


def save_trends(dataset: xr.Dataset, path: str | os.PathLike[str]) -> Path:
    """Write trends to one netCDF file and return its path; TreeKVError when it cannot be written."""
    return store.write(dataset, path)


def open_trends(path: str | os.PathLike[str]) -> xr.Dataset:
    """Read what `save_trends` wrote; TreeKVError for a missing, damaged, foreign or newer file."""
    return store.read(path, FORMAT, ("growth", "slope", "rank_correlation", "p_value", "claim_i"))


def _growth(amplitude: np.ndarray, quarter: int, tail: int) -> np.ndarray:
    start = amplitude[..., :quarter].mean(-1, dtype=np.float64)
    end = amplitude[..., -tail:].mean(-1, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return end / start


def _band_trend(amplitude: np.ndarray, level: int) -> tuple[float, float, float, float, float, int]:
    """Slope with its interval, Spearman's rho and p, and the number of runs behind them."""
    length = len(amplitude)
    # One coefficient covers 2^level positions: shorter runs would count it several times over.
    size = max(2**level, -(-length // _MAX_RUNS))
    starts = np.arange(0, length, size)
    sizes = np.diff(np.append(starts, length))
    value = np.add.reduceat(amplitude, starts) / sizes
    centre = starts + (sizes - 1) / 2
    positive = value > 0
    slope = low = high = np.nan
    if positive.sum() >= 2:
        slope, _, low, high = stats.theilslopes(np.log(value[positive]), centre[positive] / 1000, alpha=0.95)
    if len(value) < 3 or np.ptp(value) == 0:
        return slope, low, high, np.nan, np.nan, len(value)
    rank = stats.spearmanr(centre, value, alternative="greater")  # the claim has a direction
    return slope, low, high, float(rank.statistic), float(rank.pvalue), len(value)


def _claim_i(growth: float, correlation: float, p_value: float, runs: int) -> str:
    if runs < _LEAST_RUNS or np.isnan(growth):
        return "not decided"
    grew, rises = growth > _GREW, correlation > 0 and p_value < _ALPHA
    if grew and rises:
        return "holds"
    return "not decided" if grew or rises else "fails"


def _overall(words: list[str]) -> str:
    if "fails" in words:
        return "fails"
    return "not decided" if "not decided" in words else "holds"


def _claim_ii(growth: np.ndarray) -> tuple[str, Any]:
    order = stats.spearmanr(np.arange(len(growth)), growth, alternative="greater")
    if len(growth) < _LEAST_BANDS or np.isnan(growth).any():
        return "not decided", order
    top = int(np.argmax(growth))
    at_top = top >= len(growth) - len(growth) // 3 and growth[top] > _GREW
    rises = order.statistic > 0 and order.pvalue < _ALPHA
    if at_top and rises:
        return "holds", order
    return ("not decided" if at_top or rises else "fails"), order
