"""The two claims on spectra whose answer is known."""

import numpy as np
import pytest
from scipy import stats

import analysis
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
from treekv import TreeKVError

LENGTH = 2048
POSITION = np.arange(LENGTH) / LENGTH


def rising(rates):
    """Bands [len(rates), LENGTH] that grow by the factor e^rate from the first position to the last."""
    return np.exp(np.outer(rates, POSITION))


def trends_of(spectrum, resamples=99):
    return analysis.trends(spectrum, resamples=resamples)


def test_both_claims_hold_where_high_bands_grow_most(made_spectrum):
    trends = trends_of(made_spectrum(rising(np.linspace(1, 4, 8))))
    assert (trends.attrs["claim_i"], trends.attrs["claim_ii"]) == ("holds", "holds")
    assert trends["claim_i"].values.tolist() == ["holds"] * 8
    assert trends.attrs["claim_ii_top_band"] == "D1"
    assert (trends["share_growing"] == 1).all()


def test_numbers_of_an_exponential(made_spectrum):
    trends = trends_of(made_spectrum(rising([0.5, 1.0, 2.0, 3.0])))
    rates = np.array([0.5, 1.0, 2.0, 3.0])
    np.testing.assert_allclose(trends["slope"], rates / LENGTH * 1000, rtol=0.02)
    assert (trends["slope_low"] <= trends["slope"]).all()
    assert (trends["slope"] <= trends["slope_high"]).all()
    exact = rising(rates)[:, -64:].mean(1) / rising(rates)[:, : LENGTH // 4].mean(1)
    np.testing.assert_allclose(trends["growth"], exact, rtol=0.01)
    assert trends["growth_by_head"].dims == ("layer", "head", "band")
    np.testing.assert_allclose(trends["growth_by_head"].mean(("layer", "head")), exact, rtol=0.01)


def test_flat_is_no_growth(made_spectrum):
    trends = trends_of(made_spectrum(np.ones((8, LENGTH))))
    assert (trends.attrs["claim_i"], trends.attrs["claim_ii"]) == ("fails", "fails")
    np.testing.assert_allclose(trends["growth"], 1, atol=0.02)
    np.testing.assert_allclose(trends["slope"], 0, atol=0.01)


def test_falling_fails(made_spectrum):
    trends = trends_of(made_spectrum(rising(-np.linspace(1, 4, 8))))
    assert (trends.attrs["claim_i"], trends.attrs["claim_ii"]) == ("fails", "fails")
    assert (trends["growth"] < 1).all()
    assert (trends["rank_correlation"] < -0.9).all()


def test_reversed_bands_grow_but_not_most_at_the_top(made_spectrum):
    trends = trends_of(made_spectrum(rising(np.linspace(4, 1, 8))))
    assert (trends.attrs["claim_i"], trends.attrs["claim_ii"]) == ("holds", "fails")
    assert trends.attrs["claim_ii_top_band"] == "A7"


def test_one_flat_band_is_enough_against_the_first_claim(made_spectrum):
    trends = trends_of(made_spectrum(rising([1, 2, 0, 3, 4])))
    assert trends.attrs["claim_i"] == "fails"
    assert trends["claim_i"].values.tolist() == ["holds", "holds", "fails", "holds", "holds"]


def test_few_runs_of_a_low_band_decide_nothing(made_spectrum):
    """At level 8 a text of 1,024 has four coefficients: no rank test can tell growth from chance."""
    trends = trends_of(made_spectrum(rising(np.linspace(1, 4, 9))[:, ::2]))
    assert trends["runs"].values.tolist() == [4, 4, 8, 16, 32, 64, 64, 64, 64]
    assert trends["claim_i"].values.tolist() == ["not decided"] * 2 + ["holds"] * 7
    assert trends.attrs["claim_i"] == "not decided"


def test_signs_that_disagree_decide_nothing(made_spectrum):
    ends_high = np.exp(-POSITION)
    ends_high[-64:] = 5  # falls all along, and is largest at the very end
    trends = trends_of(made_spectrum(np.tile(ends_high, (4, 1))))
    assert trends["claim_i"].values.tolist() == ["not decided"] * 4
    top_without_order = rising([1, 1.2, 3.0, 2.9, 2.8, 2.7, 2.6, 2.5, 3.1])
    assert trends_of(made_spectrum(top_without_order)).attrs["claim_ii"] == "not decided"


@pytest.mark.slow
def test_intervals_are_those_of_drawing_queries_again(made_spectrum):
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


def test_texts_that_differ_widen_the_interval(made_spectrum):
    """Each text's queries agree, the texts do not: only drawing whole texts again shows it."""
    each = [made_spectrum(rising([rate] * 4)) for rate in (0.0, 1.0, 2.0, 3.0)]
    pooled = trends_of(analysis.mean_spectrum(each))
    assert pooled.attrs["texts"] == 4
    alone = trends_of(each[1])
    width = lambda found: float((found["growth_high"] - found["growth_low"])[0])  # noqa: E731
    assert width(pooled) > 20 * width(alone)
    assert pooled["growth_low"][0] < alone["growth"][0] * 2 < pooled["growth_high"][0]


def test_one_query_has_no_interval(made_spectrum):
    found = trends_of(made_spectrum(rising([1, 2, 3, 4])).isel(query=[0]))
    assert np.isnan(found["growth_low"]).all()
    assert found.attrs["claim_i"] == "holds"


def test_rank_correlation_is_scipys():
    values = np.random.default_rng(0).integers(0, 9, (5, 40)).astype(float)
    expected = [stats.spearmanr(np.arange(40), row).statistic for row in values]
    assert [spearman(row) for row in values] == expected
    for nothing in ([1.0, 2.0], [3.0, 3.0, 3.0], [1.0, np.nan, 2.0]):
        assert np.isnan(spearman(np.array(nothing))) and np.isnan(spearman_batch(np.array(nothing)))


@pytest.mark.parametrize("length", [3, 6, 40, 64])
@pytest.mark.parametrize("draw", ["normal", "ties"])
def test_many_orders_at_once_are_what_scipy_gives_one_by_one(length, draw):
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


def test_p_values_are_those_of_the_exact_null(made_spectrum):
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


def test_the_null_is_honest_for_haar_which_is_constant_on_its_runs(made_spectrum):
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


def test_runs_begin_where_coefficients_begin(made_spectrum):
    spectrum = made_spectrum(np.ones((4, 200)))
    assert Runs.of(32, spectrum).starts.tolist() == [0, 32, 64, 96, 128, 160, 192]
    spectrum.attrs["sinks"] = "include"  # positions 4 ... 203 of a transform that began at 0
    run = Runs.of(32, spectrum)
    assert run.starts.tolist() == [0, 28, 60, 92, 124, 156, 188]
    assert run.sizes.sum() == 200


def test_the_treatment_of_the_sinks_is_with_the_result(run):
    for sinks in ("separate", "include"):
        found = trends_of(analysis.spectrum(run, sinks=sinks))
        assert (found.attrs["sinks"], found.attrs["sink_count"]) == (sinks, 4)


def test_rules_are_with_the_result(made_spectrum):
    trends = trends_of(made_spectrum(np.ones((4, 200))))
    assert "first quarter" in trends.attrs["rules"]
    assert (trends.attrs["first_positions"], trends.attrs["last_positions"]) == (50, 50)


def test_silent_bands_do_not_crash(made_spectrum):
    trends = trends_of(made_spectrum(np.zeros((4, 200))))
    assert (trends.attrs["claim_i"], trends.attrs["claim_ii"]) == ("not decided", "not decided")


def test_too_short_is_refused(made_spectrum):
    with pytest.raises(TreeKVError, match=r"31 positions.*32"):
        trends_of(made_spectrum(np.ones((3, 31))))


def test_too_little_is_refused(made_spectrum):
    spectrum = made_spectrum(np.ones((4, 200)))
    with pytest.raises(TreeKVError, match="resamples is 98"):
        trends_of(spectrum, resamples=98)
    with pytest.raises(TreeKVError, match="'query_amplitude'"):
        trends_of(spectrum.drop_vars("query_amplitude"))


def test_saved_and_opened_again(made_spectrum, tmp_path):
    trends = trends_of(made_spectrum(rising([1, 2, 3, 4])))
    assert analysis.open(analysis.save(trends, tmp_path / "trends.nc")).identical(trends)
