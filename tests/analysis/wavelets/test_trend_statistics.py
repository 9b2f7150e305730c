"""Estimates, intervals and permutation tests against scipy and exact enumeration."""

import numpy as np
import pytest
from scipy import stats

from analysis.wavelets.growth import Ends
from analysis.wavelets.trend_statistics import (
    Estimates,
    Runs,
    permutation_null,
    permutation_nulls,
    spearman,
    spearman_batch,
    theil_sen,
    theil_sen_batch,
)
from tests.analysis.wavelets.rising import LENGTH, POSITION, rising, trends_of


@pytest.mark.slow
def test_intervals_equal_a_plain_bootstrap(made_spectrum):
    """Against a plain loop over resampled queries."""
    spectrum = made_spectrum(rising([1.0, 2.0, 3.0]))
    rng = np.random.default_rng(5)
    loudness = np.linspace(0.5, 2, 8)[:, None, None] ** POSITION  # queries that grow differently
    spectrum["query_amplitude"] = spectrum["query_amplitude"] * loudness
    spectrum["amplitude"] = spectrum["amplitude"] * loudness.mean(0)
    found = trends_of(spectrum, resamples=999)
    values = spectrum["query_amplitude"].values
    drawn = [values[rng.integers(8, size=8)].mean(0) for _ in range(999)]
    growth = [mean[:, -64:].mean(1) / mean[:, : LENGTH // 4].mean(1) for mean in drawn]
    low, high = np.percentile(growth, [2.5, 97.5], axis=0)
    np.testing.assert_allclose(found["growth_low"], low, rtol=0.02)
    np.testing.assert_allclose(found["growth_high"], high, rtol=0.02)
    slopes = [stats.theilslopes(np.log(m[0].reshape(64, -1).mean(1)), 0.032 * np.arange(64)).slope for m in drawn[:200]]
    low, high = np.percentile(slopes, [2.5, 97.5])
    assert found["slope_low"][0] == pytest.approx(low, rel=0.1)
    assert found["slope_high"][0] == pytest.approx(high, rel=0.1)


def test_rank_correlation_is_scipys():
    values = np.random.default_rng(0).integers(0, 9, (5, 40)).astype(float)
    expected = [stats.spearmanr(np.arange(40), row).statistic for row in values]
    assert [spearman(row) for row in values] == expected
    for nothing in ([1.0, 2.0], [3.0, 3.0, 3.0], [1.0, np.nan, 2.0]):
        assert np.isnan(spearman(np.array(nothing))) and np.isnan(spearman_batch(np.array(nothing)))


@pytest.mark.parametrize("length", [3, 6, 40, 64])
@pytest.mark.parametrize("draw", ["normal", "ties"])
def test_batched_statistics_equal_scipys(length, draw):
    """The forms that stand in for scipy inside the permutation tests, with and without ties and even runs."""
    rng = np.random.default_rng(length)
    values = rng.normal(size=(50, length)) if draw == "normal" else rng.integers(0, 3, (50, length)).astype(float)
    values[:, :3] = [0.0, 1.0, 2.0]  # none constant
    centres = np.cumsum(rng.integers(1, 9, length)) - 0.5
    correlations = [stats.spearmanr(np.arange(length), row).statistic for row in values]
    slopes = [stats.theilslopes(row, centres / 1000).slope for row in values]
    for ours, expected in ((spearman_batch(values), correlations), (theil_sen_batch(values, centres), slopes)):
        np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(spearman_batch(values.T, axis=0), spearman_batch(values))
    np.testing.assert_array_equal(theil_sen_batch(values.T, centres, axis=0), theil_sen_batch(values, centres))
    assert [theil_sen(row, centres) for row in values] == slopes


def test_estimates_come_from_scipy(made_spectrum):
    """Exactly: a routine of our own that only comes close would not be equal."""
    mean = np.random.default_rng(1).lognormal(size=(4, 200))
    runs = [Runs.of(8, made_spectrum(mean)) for _ in mean]
    found = Estimates.of(mean, runs, Ends.of(200))
    for band, run in enumerate(runs):
        value = run.means(mean[band])
        assert found.rank_correlation[band] == stats.spearmanr(np.arange(len(value)), value).statistic
        assert found.slope[band] == stats.theilslopes(np.log(value), run.centres / 1000).slope
    assert found.order == stats.spearmanr(np.arange(4), found.growth).statistic


def test_p_values_equal_the_exact_null(made_spectrum):
    """Six runs have 720 orders: scipy goes through all of them, and so does this loop."""
    from itertools import permutations

    value = np.array([1.0, 3.0, 2.0, 4.0, 6.0, 5.0])
    run = Runs(np.arange(0, 60, 10), np.full(6, 10))
    found = permutation_nulls(np.repeat(value, 10), run, Ends(15, 15), 999, np.random.default_rng(0))
    orders = np.array(list(permutations(value)))
    place = np.arange(6)
    correlations = [stats.spearmanr(place, order).statistic for order in orders]
    slopes = [stats.theilslopes(np.log(order), place).slope for order in orders]
    longer = np.repeat(orders, 10, axis=1)
    ratios = longer[:, -15:].mean(1) / longer[:, :15].mean(1)
    for name, every, mine in (
        ("rank_correlation", correlations, stats.spearmanr(place, value).statistic),
        ("slope", slopes, stats.theilslopes(np.log(value), place).slope),
        ("growth", ratios, ratios[(orders == value).all(1)]),
    ):
        assert found[name].p_value == pytest.approx(np.mean(np.array(every) >= mine - 1e-9)), name
    assert found["rank_correlation"].limit == pytest.approx(np.quantile(correlations, 0.95, method="inverted_cdf"))
    assert found["slope"].limit == pytest.approx(
        100 * np.quantile(slopes, 0.95, method="inverted_cdf")
    )  # runs of 10, per 1,000 positions
    assert found["growth"].limit == pytest.approx(np.quantile(ratios, 0.95, method="inverted_cdf"))


def test_the_null_is_calibrated_for_haar_which_is_constant_on_its_support(made_spectrum):
    """Noise that is constant on runs of 64 must not look like a trend; position by position it would."""
    rng = np.random.default_rng(2)
    ours, naive = [], []
    for _ in range(200):
        amplitude = np.repeat(rng.lognormal(size=32), 64)
        run = Runs.of(64, made_spectrum(amplitude[None]))
        ours.append(permutation_null(run.means(amplitude), spearman_batch, 199, rng).p_value)
        naive.append(stats.spearmanr(np.arange(2048), amplitude, alternative="greater").pvalue)
    assert np.mean(np.array(ours) < 0.05) < 0.09
    assert np.mean(np.array(naive) < 0.05) > 0.3


def test_runs_are_aligned_with_coefficients(made_spectrum):
    spectrum = made_spectrum(np.ones((4, 200)))
    assert Runs.of(32, spectrum).starts.tolist() == [0, 32, 64, 96, 128, 160, 192]
    spectrum.attrs["sinks"] = "include"  # positions 4 ... 203 of a transform that began at 0
    run = Runs.of(32, spectrum)
    assert run.starts.tolist() == [0, 28, 60, 92, 124, 156, 188]
    assert run.sizes.sum() == 200
