"""The two claims on spectra whose answer is known."""

import numpy as np
import pytest

import analysis
from tests.analysis.wavelets.rising import LENGTH, POSITION, rising, trends_of
from treekv import TreeKVError


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


@pytest.mark.slow
def test_signs_that_disagree_decide_nothing(made_spectrum):
    ends_high = np.exp(-POSITION)
    ends_high[-64:] = 5  # falls all along, and is largest at the very end
    trends = trends_of(made_spectrum(np.tile(ends_high, (4, 1))))
    assert trends["claim_i"].values.tolist() == ["not decided"] * 4
    top_without_order = rising([1, 1.2, 3.0, 2.9, 2.8, 2.7, 2.6, 2.5, 3.1])
    assert trends_of(made_spectrum(top_without_order)).attrs["claim_ii"] == "not decided"


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


@pytest.mark.slow
def test_the_treatment_of_the_sinks_is_with_the_result(captured):
    for sinks in ("separate", "include"):
        found = trends_of(analysis.spectrum(captured, sinks=sinks))
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
