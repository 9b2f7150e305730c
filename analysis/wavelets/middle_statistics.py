"""Statistics of the middle of texts: how far each band rises, and how that depends on frequency, with intervals.

The input is the amplitude in runs, [sample, band, run], lowest band first. The chance that a statistic is compared with
depends on the number of samples:
  5 or more  each sample is read forwards or backwards at random. Without a trend both directions are alike, however
             slowly the level wanders within a sample; intervals are bootstrap intervals over samples
  fewer      the runs of each sample are shuffled, all bands alike. That takes runs as independent of each other; an
             interval is the estimate less the middle 95 % of the shuffled orders
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from analysis.wavelets.trend_statistics import spearman_batch

ENOUGH_SAMPLES = 5  # reversing fewer has no 20 outcomes, so none below p = 0.05

Measures = dict[str, np.ndarray]
# Of each band [..., band]; of the order of the bands [...].
OF_BANDS = ("rise", "growth", "rank_correlation")
OF_ORDER = ("absolute", "ratio")


def measure(mean: np.ndarray, window: int) -> Measures:
    """The statistics of amplitude [..., band, run], of which the first and the last `window` runs are compared.

    rise                last less first, in the units of the amplitude
    growth              logarithm of last / first; NaN where one of the two is not positive
    rank_correlation    Spearman's, of the runs and their order
    absolute, ratio     least-squares slope of rise and growth over the bands, per band towards the higher frequency
    """
    first, last = mean[..., :window].mean(-1), mean[..., -window:].mean(-1)
    positive = (first > 0) & (last > 0)
    growth = np.full(first.shape, np.nan)
    np.log(np.divide(last, first, out=np.ones_like(first), where=positive), out=growth, where=positive)
    rise = last - first
    return {
        "rise": rise,
        "growth": growth,
        "rank_correlation": spearman_batch(mean),
        "absolute": slope_over_bands(rise),
        "ratio": slope_over_bands(growth),
    }


def slope_over_bands(values: np.ndarray) -> np.ndarray:
    """Least-squares slope of values [..., band] over the number of the band; NaN for a single band."""
    number = np.arange(values.shape[-1]) - (values.shape[-1] - 1) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(values @ number / (number @ number))


def by_chance(runs: np.ndarray, window: int, resamples: int, generator: np.random.Generator) -> Measures:
    """The statistics where chance alone orders the runs, the first axis of each counting `resamples` draws."""
    samples = len(runs)
    if samples >= ENOUGH_SAMPLES:
        forwards = generator.integers(2, size=(resamples, samples)).astype(float)
        flat, reverse = runs.reshape(samples, -1), runs[..., ::-1].reshape(samples, -1)
        mean = (forwards @ flat + (1 - forwards) @ reverse) / samples
        return measure(mean.reshape(resamples, *runs.shape[1:]), window)
    mean = np.zeros((resamples, *runs.shape[1:]))
    for sample in runs:
        order = generator.permuted(np.tile(np.arange(sample.shape[-1]), (resamples, 1)), axis=1)
        mean += np.moveaxis(sample[:, order], 0, 1) / samples
    return measure(mean, window)


def p_values(found: Measures, chance: Measures) -> Measures:
    """One-sided: the share of draws that reach the estimate, which counts as a draw itself; NaN for no estimate."""
    with np.errstate(invalid="ignore"):
        reached = {name: (chance[name] >= found[name] - 1e-12 * np.abs(found[name])).sum(0) for name in found}
    draws = len(chance["rise"])
    return {name: np.where(np.isnan(found[name]), np.nan, (1 + reached[name]) / (1 + draws)) for name in found}


def limits(chance: Measures) -> Measures:
    """The 95th percentile of the draws of chance."""
    return {name: _quantile(values, 0.95) for name, values in chance.items()}


def intervals(
    runs: np.ndarray, window: int, found: Measures, chance: Measures, generator: np.random.Generator
) -> tuple[Measures, Measures]:
    """Lower and upper ends of the 95 % intervals. Fewer than 5 samples have none for the rank correlation (NaN)."""
    if len(runs) >= ENOUGH_SAMPLES:
        draws = len(chance["rise"])
        weight = generator.multinomial(len(runs), np.full(len(runs), 1 / len(runs)), size=draws) / len(runs)
        again = measure((weight @ runs.reshape(len(runs), -1)).reshape(draws, *runs.shape[1:]), window)
        return _each(again, lambda x: _quantile(x, 0.025)), _each(again, lambda x: _quantile(x, 0.975))
    low = {name: found[name] - _quantile(chance[name], 0.975) for name in found}
    high = {name: found[name] - _quantile(chance[name], 0.025) for name in found}
    for end in (low, high):
        end["rank_correlation"] = np.full_like(found["rank_correlation"], np.nan)
    return low, high


def _each(measures: Measures, of: Callable[[np.ndarray], np.ndarray]) -> Measures:
    return {name: of(values) for name, values in measures.items()}


def _quantile(draws: np.ndarray, share: float) -> np.ndarray:
    """Over the first axis; NaN where any draw is."""
    return np.asarray(np.quantile(draws, share, axis=0))
