"""The paper's two claims about the spectrum, tested in numbers.

    result = trends(spectrum(run))            # or trends(pool([spectrum(run) for run in runs]))
    result.attrs["claim_i"]                   # "holds", "fails" or "not decided"
    result["growth"].sel(band="D1")           # amplitude at the end over amplitude at the start
    result.attrs["sinks"]                     # "separate" or "include": it can change the verdict

Source: PAPER.md section 1 (He et al., TreeKV, arXiv 2501.04987); the decision rules are ours and stand in
`RULES`. Estimates, intervals and tests are scipy's.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xarray as xr
from scipy import stats

from analysis import store
from analysis.growth import TAIL, Ends
from treekv.errors import TreeKVError

FORMAT = "treekv-trends"
LEAST_POSITIONS = 32

_MAX_RUNS = 64  # Theil-Sen looks at every pair of runs
_LEAST_RUNS = 6  # fewer runs cannot reach the 5 % level in a way that means anything
_LEAST_BANDS = 4
_GREW = 1.1  # growth up to a tenth counts as none
_ALPHA = 0.05

RULES = (
    f"Amplitude is averaged over layers, query heads, queries and texts. Growth is the mean over the last {TAIL} "
    "positions (the last quarter, if shorter) divided by the mean over the first quarter, sinks left out of both. "
    f"For slope and rank correlation a band is averaged over runs of positions, at most {_MAX_RUNS}, none shorter "
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


def trends(spectrum: xr.Dataset, resamples: int = 299, seed: int = 0) -> xr.Dataset:
    """Does amplitude (i) grow towards the end in every band, and (ii) most in the highest bands?

    `spectrum` is of one text or of several (`pool`). Returns a Dataset over band, lowest first, and (layer,
    head, band):
      growth            (band)  mean over the last 64 positions / mean over the first quarter
      slope             (band)  Theil-Sen slope of log amplitude per 1,000 positions
      rank_correlation  (band)  Spearman's, amplitude against position
      *_low, *_high     (band)  95 % bootstrap interval of each of the three (scipy.stats.bootstrap over texts and
                                queries); NaN with a single query
      growth_p_value, p_value  (band)  one-sided, of growth and of rank_correlation, when runs of positions are
                                shuffled (scipy.stats.permutation_test): no run is shorter than what a coefficient
                                reaches, since a Haar coefficient is constant on its run and would count double
      slope_p_value     (band)  the same for the slope: that of Kendall's tau, the test that belongs to Theil-Sen
      runs              (band)  number of runs of positions behind slope and correlation
      claim_i           (band)  "holds", "fails", "not decided"
      growth_by_head    (layer, head, band)  the same growth without averaging
      share_growing     (band)  share of heads whose growth exceeds 1.1
    attrs: claim_i, claim_ii (the same three words), claim_ii_correlation with _low, _high and claim_ii_p_value,
    claim_ii_top_band, `rules` (the exact decision rules in words), and how the sinks were treated: sinks, sink_count.

    With one text the intervals say how far its queries agree, and neighbouring queries see almost the same; only
    several texts say how far the numbers carry to others. The sinks matter: left in the transform
    (sinks="include") they raise the low bands of the first quarter, which lowers the growth of those bands. Take
    both spectra before believing claim (ii).

    `resamples` is the number of bootstrap samples and of permutations, `seed` that of both. Raises TreeKVError
    for a spectrum of fewer than 32 positions or without its queries, or fewer than 99 resamples.
    """
    amplitude = spectrum["amplitude"]
    length = amplitude.sizes["position"]
    if length < LEAST_POSITIONS:
        raise TreeKVError(
            f"the spectrum has {length} positions; a trend needs at least {LEAST_POSITIONS}: take more text"
        )
    if resamples < 99:
        raise TreeKVError(f"resamples is {resamples}; fewer than 99 give no 95 % interval")
    if "query_amplitude" not in spectrum:
        raise TreeKVError("the spectrum lacks 'query_amplitude', what each query saw; take the spectrum again")
    ends = Ends.of(length)
    mean = amplitude.mean(("layer", "head")).values.astype(np.float64)
    by_head = ends.growth(amplitude.values)
    runs = [_Runs.of(int(width), spectrum) for width in spectrum["support"].values]
    generator = np.random.default_rng(seed)

    found = _Estimates.of(mean, runs, ends)
    low, high = _bootstrap(spectrum, lambda sample: _Estimates.of(sample, runs, ends).flat(), resamples, generator)
    p_values = [_p_values(band, run, ends, resamples, generator) for band, run in zip(mean, runs, strict=True)]
    slope_p, rank_p, growth_p = (np.array(column) for column in zip(*p_values, strict=True))
    count = np.array([len(run.starts) for run in runs], np.int32)
    claim_i = [
        _claim_i(*row)
        for row in zip(found.growth, low.growth, high.growth, found.rank_correlation, rank_p, count, strict=True)
    ]
    claim_ii, order_p = _claim_ii(found.growth, found.order, resamples, generator)
    bands = [str(band) for band in spectrum["band"].values]
    numbers = {}
    for name, unit in (("growth", "1"), ("slope", "natural logarithm per 1,000 positions"), ("rank_correlation", "1")):
        for suffix, source in (("", found), ("_low", low), ("_high", high)):
            numbers[name + suffix] = ("band", getattr(source, name), {"units": unit})
    kept = ("model", "wavelet", "mode", "transform", "sinks", "sink_count", "projected", "tokens", "texts")
    return xr.Dataset(
        {
            **numbers,
            "growth_p_value": ("band", growth_p),
            "slope_p_value": ("band", slope_p),
            "p_value": ("band", rank_p),
            "runs": ("band", count),
            "claim_i": ("band", np.asarray(claim_i)),
            "growth_by_head": (("layer", "head", "band"), by_head.astype(np.float32)),
            "share_growing": ("band", (by_head > _GREW).mean((0, 1))),
        },
        coords={name: spectrum.coords[name] for name in ("band", "level", "layer", "head")},
        attrs={
            **{name: spectrum.attrs[name] for name in kept if name in spectrum.attrs},
            "format": FORMAT,
            "format_version": store.FORMAT_VERSION,
            "claim_i": _overall(claim_i),
            "claim_ii": claim_ii,
            "claim_ii_correlation": found.order,
            "claim_ii_correlation_low": low.order,
            "claim_ii_correlation_high": high.order,
            "claim_ii_p_value": order_p,
            "claim_ii_top_band": bands[int(np.argmax(found.growth))],
            "first_positions": ends.quarter,
            "last_positions": ends.tail,
            "resamples": resamples,
            "seed": seed,
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


class _Runs(NamedTuple):
    """Positions cut into runs that can be shuffled: none shorter than what one coefficient reaches."""

    starts: np.ndarray
    sizes: np.ndarray

    @classmethod
    def of(cls, width: int, spectrum: xr.Dataset) -> _Runs:
        position = spectrum["position"].values
        length = len(position)
        size = width * -(-length // (_MAX_RUNS * width))
        # Runs begin where coefficients begin: at the first token that was transformed.
        origin = 0 if spectrum.attrs.get("sinks") == "include" else int(position[0])
        first = -(int(position[0]) - origin) % size
        starts = np.arange(first, length, size)
        if first:
            starts = np.append(0, starts)
        return cls(starts, np.diff(np.append(starts, length)))

    @property
    def centres(self) -> np.ndarray:
        return self.starts + (self.sizes - 1) / 2

    def means(self, amplitude: np.ndarray) -> np.ndarray:
        return np.add.reduceat(amplitude, self.starts) / self.sizes

    def share(self, first: int, last: int) -> np.ndarray:
        """Which share of the positions first ... last - 1 lies in each run."""
        ends = self.starts + self.sizes
        return np.clip(np.minimum(ends, last) - np.maximum(self.starts, first), 0, None) / (last - first)


class _Estimates(NamedTuple):
    """Per band, and the correlation of growth with the band's place."""

    growth: np.ndarray
    slope: np.ndarray
    rank_correlation: np.ndarray
    order: float

    @classmethod
    def of(cls, mean: np.ndarray, runs: list[_Runs], ends: Ends) -> _Estimates:
        growth = ends.growth(mean)
        slope, rank = np.full(len(mean), np.nan), np.full(len(mean), np.nan)
        for band, (amplitude, run) in enumerate(zip(mean, runs, strict=True)):
            value = run.means(amplitude)
            positive = value > 0
            if positive.sum() >= 2:
                slope[band] = stats.theilslopes(np.log(value[positive]), run.centres[positive] / 1000).slope
            rank[band] = _spearman(value)
        return cls(growth, slope, rank, float(_spearman(growth)))

    def flat(self) -> np.ndarray:
        return np.concatenate((self.growth, self.slope, self.rank_correlation, [self.order]))

    @classmethod
    def unflat(cls, numbers: np.ndarray) -> _Estimates:
        growth, slope, rank = np.split(numbers[:-1], 3)
        return cls(growth, slope, rank, float(numbers[-1]))


def _spearman(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """Spearman's correlation of values with their order along `axis`, NaN where it has none."""
    ranks = np.moveaxis(stats.rankdata(values, axis=axis), axis, -1)
    ranks = ranks - ranks.mean(-1, keepdims=True)
    order = np.arange(ranks.shape[-1]) - (ranks.shape[-1] - 1) / 2
    missing = np.isnan(np.moveaxis(values, axis, -1)).any(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = ranks @ order / np.sqrt((ranks**2).sum(-1) * (order**2).sum())
    return np.where(missing | (ranks.shape[-1] < 3), np.nan, found)


def _bootstrap(
    spectrum: xr.Dataset, statistic: Callable[[np.ndarray], np.ndarray], resamples: int, generator: np.random.Generator
) -> tuple[_Estimates, _Estimates]:
    """Ends of the 95 % intervals when texts, and within them queries, are drawn again."""
    by_query = spectrum["query_amplitude"].values.astype(np.float64)
    owner = spectrum["text"].values
    texts = [by_query[owner == text] for text in np.unique(owner)]
    bands = len(spectrum["band"])
    if len(by_query) < 2:
        nothing = np.full(3 * bands + 1, np.nan)
        return _Estimates.unflat(nothing), _Estimates.unflat(nothing)

    def of_texts(chosen: np.ndarray) -> np.ndarray:
        # scipy draws the texts; the queries of each are drawn here, since it knows no samples within samples.
        parts = [texts[i][generator.integers(len(texts[i]), size=len(texts[i]))] for i in chosen]
        return statistic(np.mean([_mean_of_seen(part) for part in parts], axis=0))

    def of_queries(chosen: np.ndarray) -> np.ndarray:
        return statistic(_mean_of_seen(by_query[chosen]))

    several = len(texts) > 1
    with warnings.catch_warnings():  # a silent or constant band has no interval: NaN says so
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        result = stats.bootstrap(
            (np.arange(len(texts) if several else len(by_query)),),
            of_texts if several else of_queries,
            vectorized=False,
            method="percentile",
            n_resamples=resamples,
            rng=generator,
        )
    low, high = result.confidence_interval
    return _Estimates.unflat(np.asarray(low)), _Estimates.unflat(np.asarray(high))


def _mean_of_seen(by_query: np.ndarray) -> np.ndarray:
    """Mean over queries, each where it sees; a position that none of them sees takes the last one's value."""
    seen = ~np.isnan(by_query)
    count = seen.sum(0)
    mean = np.where(seen, by_query, 0).sum(0) / np.maximum(count, 1)
    last = count.shape[-1] - 1 - np.argmax(count[0, ::-1] > 0)
    mean[:, last + 1 :] = mean[:, last : last + 1]
    return mean


def _p_values(
    amplitude: np.ndarray, run: _Runs, ends: Ends, resamples: int, generator: np.random.Generator
) -> tuple[float, float, float]:
    """One-sided p of slope, rank correlation and growth when the runs stand in any order."""
    value = run.means(amplitude)
    if len(value) < 3 or np.ptp(value) == 0 or not (value > 0).any():
        return np.nan, np.nan, np.nan
    slope = float(stats.kendalltau(run.centres, value, alternative="greater").pvalue)
    length = len(amplitude)
    first, last = run.share(0, ends.quarter), run.share(length - ends.tail, length)
    rank = _shuffled(value, _spearman, resamples, generator)
    if not value @ first > 0:
        return slope, rank, np.nan

    def growth(x: np.ndarray, axis: int = -1) -> np.ndarray:
        x = np.moveaxis(x, axis, -1)
        with np.errstate(divide="ignore"):
            return (x @ last) / (x @ first)

    return slope, rank, _shuffled(value, growth, resamples, generator)


def _shuffled(
    values: np.ndarray, statistic: Callable[..., np.ndarray], resamples: int, generator: np.random.Generator
) -> float:
    """How often a shuffled order reaches what the values reach as they stand."""
    return float(
        stats.permutation_test(
            (values,),
            statistic,
            permutation_type="pairings",
            vectorized=True,
            alternative="greater",
            n_resamples=resamples,
            rng=generator,
        ).pvalue
    )


def _claim_i(growth: float, low: float, high: float, correlation: float, p_value: float, runs: int) -> str:
    if runs < _LEAST_RUNS or np.isnan(growth):
        return "not decided"
    low, high = (growth if np.isnan(end) else end for end in (low, high))
    rises = correlation > 0 and p_value < _ALPHA
    if low > _GREW and rises:
        return "holds"
    return "fails" if high <= _GREW and not rises else "not decided"


def _overall(words: list[str]) -> str:
    if "fails" in words:
        return "fails"
    return "not decided" if "not decided" in words else "holds"


def _claim_ii(
    growth: np.ndarray, correlation: float, resamples: int, generator: np.random.Generator
) -> tuple[str, float]:
    if len(growth) < _LEAST_BANDS or not np.isfinite(growth).all():
        return "not decided", np.nan
    p_value = _shuffled(growth, _spearman, resamples, generator)
    top = int(np.argmax(growth))
    at_top = top >= len(growth) - len(growth) // 3 and growth[top] > _GREW
    rises = correlation > 0 and p_value < _ALPHA
    if at_top and rises:
        return "holds", p_value
    return ("not decided" if at_top or rises else "fails"), p_value
