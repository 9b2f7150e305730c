"""Statistics of a band's trend: estimates, bootstrap intervals and permutation tests.

Estimates are scipy's (`spearmanr`, `theilslopes`), also those of every bootstrap sample, and so are the bootstrap and
the permutation tests around them. Only inside the permutation tests, which evaluate hundreds of shuffled orders of
every band, two batched versions of our own are used: `spearman_batch` and `theil_sen_batch` compute the same numbers
for many orders at once, and are tested to equal scipy's to 1e-12. Growth, a ratio of two means, is numpy's.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import xarray as xr
from scipy import stats

from analysis.wavelets.growth import Ends

MAX_RUNS = 64  # Theil-Sen uses every pair of runs
LEAST_RANKED = 3  # the correlation of two values is always 1 or -1


class Runs(NamedTuple):
    """Positions divided into runs that can be shuffled: none shorter than the support of one coefficient."""

    starts: np.ndarray
    sizes: np.ndarray

    @classmethod
    def of(cls, width: int, spectrum: xr.Dataset) -> Runs:
        position = spectrum["position"].values
        length = len(position)
        size = width * -(-length // (MAX_RUNS * width))
        # Runs are aligned with coefficients: counted from the first token that was transformed.
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
        """The share of the positions first ... last - 1 in each run."""
        ends = self.starts + self.sizes
        return np.clip(np.minimum(ends, last) - np.maximum(self.starts, first), 0, None) / (last - first)


class Estimates(NamedTuple):
    """Estimates per band, and the rank correlation of growth with the order of the bands."""

    growth: np.ndarray
    slope: np.ndarray
    rank_correlation: np.ndarray
    order: float

    @classmethod
    def of(cls, mean: np.ndarray, runs: list[Runs], ends: Ends) -> Estimates:
        growth = ends.growth(mean)
        slope, rank = np.full(len(mean), np.nan), np.full(len(mean), np.nan)
        for band, (amplitude, run) in enumerate(zip(mean, runs, strict=True)):
            value = run.means(amplitude)
            positive = value > 0
            if positive.sum() >= 2:
                slope[band] = theil_sen(np.log(value[positive]), run.centres[positive])
            rank[band] = spearman(value)
        return cls(growth, slope, rank, spearman(growth))

    def flat(self) -> np.ndarray:
        return np.concatenate((self.growth, self.slope, self.rank_correlation, [self.order]))

    @classmethod
    def from_flat(cls, numbers: np.ndarray) -> Estimates:
        growth, slope, rank = np.split(numbers[:-1], 3)
        return cls(growth, slope, rank, float(numbers[-1]))


def spearman(values: np.ndarray) -> float:
    """Spearman's correlation of values with their order, NaN where it has none."""
    if len(values) < LEAST_RANKED or np.isnan(values).any() or np.ptp(values) == 0:
        return np.nan
    return float(stats.spearmanr(np.arange(len(values)), values).statistic)


def theil_sen(logarithm: np.ndarray, centres: np.ndarray) -> float:
    """Theil-Sen slope per 1,000 positions."""
    return float(stats.theilslopes(logarithm, centres / 1000).slope)


def spearman_batch(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """`spearman` along `axis`, for many orders at once."""
    ranks = np.moveaxis(stats.rankdata(values, axis=axis), axis, -1)
    ranks = ranks - ranks.mean(-1, keepdims=True)
    order = np.arange(ranks.shape[-1]) - (ranks.shape[-1] - 1) / 2
    missing = np.isnan(np.moveaxis(values, axis, -1)).any(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = ranks @ order / np.sqrt((ranks**2).sum(-1) * (order**2).sum())
    return np.where(missing | (ranks.shape[-1] < LEAST_RANKED), np.nan, found)


def theil_sen_batch(logarithms: np.ndarray, centres: np.ndarray, axis: int = -1) -> np.ndarray:
    """`theil_sen` along `axis`, for many orders at once."""
    first, second = np.triu_indices(len(centres), 1)
    values = np.moveaxis(logarithms, axis, -1)
    return np.median((values[..., second] - values[..., first]) / ((centres[second] - centres[first]) / 1000), axis=-1)


def bootstrap(
    spectrum: xr.Dataset, statistic: Callable[[np.ndarray], np.ndarray], resamples: int, generator: np.random.Generator
) -> tuple[Estimates, Estimates]:
    """Lower and upper ends of the 95 % bootstrap intervals, resampling texts and, within them, queries."""
    by_query = spectrum["query_amplitude"].values.astype(np.float64)
    owner = spectrum["text"].values
    texts = [by_query[owner == text] for text in np.unique(owner)]
    bands = len(spectrum["band"])
    if len(by_query) < 2:
        nothing = np.full(3 * bands + 1, np.nan)
        return Estimates.from_flat(nothing), Estimates.from_flat(nothing)

    def of_texts(chosen: np.ndarray) -> np.ndarray:
        # scipy resamples the texts; the queries of each are resampled here, since it has no nested resampling.
        parts = [texts[i][generator.integers(len(texts[i]), size=len(texts[i]))] for i in chosen]
        return statistic(np.mean([_mean_of_seen(part) for part in parts], axis=0))

    def of_queries(chosen: np.ndarray) -> np.ndarray:
        return statistic(_mean_of_seen(by_query[chosen]))

    several = len(texts) > 1
    with warnings.catch_warnings():  # a zero or constant band has no interval: the result is NaN
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
    return Estimates.from_flat(np.asarray(low)), Estimates.from_flat(np.asarray(high))


def _mean_of_seen(by_query: np.ndarray) -> np.ndarray:
    """Mean over the queries that see a position; positions that no query sees repeat the last value."""
    seen = ~np.isnan(by_query)
    count = seen.sum(0)
    mean = np.where(seen, by_query, 0).sum(0) / np.maximum(count, 1)
    last = count.shape[-1] - 1 - np.argmax(count[0, ::-1] > 0)
    mean[:, last + 1 :] = mean[:, last : last + 1]
    return mean


class Null(NamedTuple):
    """The distribution of a statistic over shuffled orders of the runs, in two numbers."""

    p_value: float  # the share of shuffled orders that reach the observed value
    limit: float  # the 95th percentile of the shuffled orders


NO_NULL = Null(np.nan, np.nan)


def permutation_nulls(
    amplitude: np.ndarray, run: Runs, ends: Ends, resamples: int, generator: np.random.Generator
) -> dict[str, Null]:
    """One-sided permutation tests of growth, slope and rank correlation of one band [positions]."""
    value = run.means(amplitude)
    found = dict.fromkeys(("growth", "slope", "rank_correlation"), NO_NULL)
    if len(value) < 3 or np.ptp(value) == 0 or not (value > 0).any():
        return found
    found["rank_correlation"] = permutation_null(value, spearman_batch, resamples, generator)
    positive = value > 0
    if positive.sum() >= 3:
        centres = run.centres[positive]

        def slope(x: np.ndarray, axis: int = -1) -> np.ndarray:
            return theil_sen_batch(x, centres, axis)

        found["slope"] = permutation_null(np.log(value[positive]), slope, resamples, generator)
    length = len(amplitude)
    quarter, tail = run.share(0, ends.quarter), run.share(length - ends.tail, length)
    if value @ quarter > 0:

        def growth(x: np.ndarray, axis: int = -1) -> np.ndarray:
            x = np.moveaxis(x, axis, -1)
            with np.errstate(divide="ignore"):
                return (x @ tail) / (x @ quarter)

        found["growth"] = permutation_null(value, growth, resamples, generator)
    return found


def permutation_null(
    values: np.ndarray, statistic: Callable[..., np.ndarray], resamples: int, generator: np.random.Generator
) -> Null:
    """Permutation test of the values in their order against shuffled orders, one-sided."""
    result = stats.permutation_test(
        (values,),
        statistic,
        permutation_type="pairings",
        vectorized=True,
        alternative="greater",
        n_resamples=resamples,
        rng=generator,
    )
    # No interpolation: a ratio to zero is infinite.
    return Null(float(result.pvalue), float(np.quantile(result.null_distribution, 0.95, method="inverted_cdf")))
