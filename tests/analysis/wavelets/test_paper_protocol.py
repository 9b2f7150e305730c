"""The paper's comparison of the two ends of the middle, against its transcription in loops, and on known signals."""

import math
import runpy
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import analysis
from analysis.wavelets import middle_statistics
from analysis.wavelets.middle import Middle, claimed_bands, last_queries
from tests import tiny
from tests.reference import trends as reference
from treekv import TreeKVError

claims = runpy.run_path(str(Path(__file__).parents[3] / "benchmarks" / "claims.py"))
KINDS, draw, rates = claims["KINDS"], claims["draw"], claims["rates"]


def made(kind="both", samples=6, tokens=512, seed=0):
    return draw(KINDS[kind], samples, tokens, np.random.default_rng(seed))


def lists(spectrum):
    """[sample][band][run] by the reference."""
    inner = spectrum["query_amplitude"].isel(band=slice(1, None))
    return [[reference.in_runs(band) for band in sample] for sample in inner.values.tolist()]


@pytest.mark.parametrize("tokens", [256, 500, 512, 1024])
def test_the_middle_and_its_runs(tokens):
    spectrum = made(tokens=-(-tokens // 32) * 32).isel(position=slice(tokens))
    bands = claimed_bands(spectrum)
    middle = Middle.of(bands)
    assert bands["band"].values.tolist() == ["D5", "D4", "D3", "D2", "D1"]
    assert (middle.start, middle.stop) == reference.middle(tokens)
    runs = middle.runs(last_queries(bands), bands["position"].values)
    np.testing.assert_allclose(runs, lists(spectrum), rtol=1e-12)


def test_in_the_papers_case_the_middle_is_32_to_480():
    found = analysis.trends(made(), resamples=99)
    assert (found.attrs["middle_start"], found.attrs["middle_stop"], found.attrs["run_positions"]) == (32, 480, 32)
    assert found["run"].values.tolist() == list(range(32, 480, 32))
    amplitude = made()["amplitude"].sel(band="D2").values
    assert float(found["first"].sel(band="D2")) == pytest.approx(amplitude[32:96].mean())
    assert float(found["last"].sel(band="D2")) == pytest.approx(amplitude[416:480].mean())


@pytest.mark.parametrize("kind", ["both", "ar-0.9"])
@pytest.mark.parametrize("tokens", [160, 256, 512])
def test_estimates_equal_the_transcription(kind, tokens):
    spectrum = made(kind, tokens=tokens)
    found = analysis.trends(spectrum, resamples=99)
    expected = reference.measures(reference.mean_over_samples(lists(spectrum)))
    np.testing.assert_allclose(found["rise"], expected["rise"], rtol=1e-9)
    np.testing.assert_allclose(np.log(found["growth"]), expected["growth"], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found["rank_correlation"], expected["rank_correlation"], rtol=1e-9, atol=1e-12)
    assert found.attrs["absolute_step"] == pytest.approx(expected["absolute"])
    assert found.attrs["ratio_step"] == pytest.approx(math.exp(expected["ratio"]))


class Script:
    """A generator whose draws are written down: what chance does is then known to the transcription as well."""

    def __init__(self, seed):
        self.real, self.drawn = np.random.default_rng(seed), []

    def __getattr__(self, name):
        def call(*args, **kwargs):
            self.drawn.append(getattr(self.real, name)(*args, **kwargs))
            return self.drawn[-1]

        return call


@pytest.mark.parametrize("samples", [1, 3, 6])
def test_chance_and_intervals_equal_the_transcription(samples):
    spectrum = made(samples=samples)
    each, window = lists(spectrum), 2
    runs, script = np.array(each), Script(samples)
    found = middle_statistics.measure(runs.mean(0), window)
    chance = middle_statistics.by_chance(runs, window, 99, script)
    low, high = middle_statistics.intervals(runs, window, found, chance, script)
    p, limit = middle_statistics.p_values(found, chance), middle_statistics.limits(chance)
    if samples >= 5:
        forwards, weights = script.drawn
        outcomes = [reference.turned(each, [not keep for keep in row]) for row in forwards]
        drawn = [[s for s, n in zip(each, row) for _ in range(round(n))] for row in weights]
        again = [reference.measures(reference.mean_over_samples(row)) for row in drawn]
    else:
        outcomes = [reference.shuffled(each, orders) for orders in zip(*(draws.tolist() for draws in script.drawn))]
    by_chance = [reference.measures(reference.mean_over_samples(outcome)) for outcome in outcomes]
    estimate = reference.measures(reference.mean_over_samples(each))
    for name in ("rise", "growth", "absolute", "ratio", "rank_correlation"):
        null = np.array([row[name] for row in by_chance])
        np.testing.assert_allclose(chance[name], null, rtol=1e-8, atol=1e-12)
        reached = (null >= np.array(estimate[name]) - 1e-12).sum(0)
        np.testing.assert_allclose(p[name], (1 + reached) / 100, err_msg=name)
        np.testing.assert_allclose(limit[name], np.quantile(null, 0.95, axis=0))
        if samples >= 5:
            expected = np.quantile([row[name] for row in again], [0.025, 0.975], axis=0)
        elif name == "rank_correlation":
            expected = np.full((2, 5), np.nan)
        else:
            expected = np.array(estimate[name]) - np.quantile(null, [0.975, 0.025], axis=0)
        np.testing.assert_allclose([low[name], high[name]], expected, rtol=1e-8, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("samples", [1, 8])
@pytest.mark.parametrize("kind", list(KINDS))
def test_verdicts_follow_the_transcription_of_the_rules(kind, samples):
    found = analysis.trends(made(kind, samples, seed=3), resamples=299)
    of = {
        "growth": np.log(found["growth"]).values.tolist(),
        "growth_low": found["growth_low"].values.tolist(),
        "growth_high": found["growth_high"].values.tolist(),
        "growth_p": found["growth_p_value"].values.tolist(),
        "rank": found["rank_correlation"].values.tolist(),
        "rank_p": found["p_value"].values.tolist(),
        "rise": found["rise"].values.tolist(),
        "absolute": [found.attrs[f"absolute_step{end}"] for end in ("", "_low", "_high", "_p_value")],
        "ratio": [math.log(found.attrs[f"ratio_step{end}"]) for end in ("", "_low", "_high")]
        + [found.attrs["ratio_step_p_value"]],
    }
    words, overall, readings = reference.verdict(of, 0.05 if samples >= 5 else 0.01, found.sizes["run"])
    assert (found["claim_i"].values.tolist(), found.attrs["claim_i"]) == (words, overall)
    assert found.attrs["claim_ii_absolute"] == readings["absolute"]
    assert found.attrs["claim_ii_ratio"] == readings["ratio"]


def test_what_is_true_is_found_in_enough_samples():
    both, rise_only = (analysis.trends(made(kind, 32)) for kind in ("both", "i-and-absolute"))
    assert [both.attrs[name] for name in claims["VERDICTS"]] == ["holds"] * 3 and both.attrs["claim_ii"] == "holds"
    assert [rise_only.attrs[name] for name in claims["VERDICTS"]] == ["holds", "holds", "fails"]
    assert rise_only.attrs["claim_ii"] == "depends on the reading"
    falling = analysis.trends(made("falling", 32))
    assert [falling.attrs[name] for name in claims["VERDICTS"]] == ["fails"] * 3


@pytest.mark.parametrize("samples", [1, 8])
@pytest.mark.parametrize("kind", ["white", "loud-runs", "ar-0.995"])
@pytest.mark.slow
def test_nulls_rarely_hold(kind, samples):
    """A small version of benchmarks/claims.py: of 20 draws at most 3 (p = 0.016 if the rate were 5 %)."""
    found = rates(KINDS[kind], samples, 512, 20, np.random.default_rng(1))
    assert all(holds <= 0.15 for holds, _ in found.values()), found
    assert stats.binom.sf(3, 20, 0.05) < 0.02


def test_reading_backwards_is_robust_where_shuffling_is_not():
    """The level of the tokens wanders: shuffled runs alone would find a rise in more than 5 % of all texts."""
    low = []
    for seed in range(60):
        spectrum = claimed_bands(made("ar-0.995", 8, seed=seed))
        runs = Middle.of(spectrum).runs(last_queries(spectrum), spectrum["position"].values)
        found = middle_statistics.measure(runs.mean(0), 2)
        by_turning = middle_statistics.by_chance(runs, 2, 199, np.random.default_rng(seed))
        low.append(middle_statistics.p_values(found, by_turning)["rise"][-1] <= 0.05)
    assert np.mean(low) < 0.12


def test_captured_texts_count_their_last_query(captured):
    spectrum = analysis.spectrum(captured)
    found = analysis.trends(spectrum, resamples=99)
    last = spectrum["query_amplitude"].values[-1, -1, 28:]  # D1 from position 32 on
    assert float(found["first"].sel(band="D1")) == pytest.approx(last[:64].mean(), rel=1e-5)
    assert (found.attrs["samples"], found.attrs["sinks"], found.attrs["protocol"]) == (1, "include", "paper")
    assert found["growth_by_head"].shape == (2, 4, 5)


def test_sinks_do_not_reach_the_middle(captured):
    """Whether they are louder or not changes nothing from position 32 on, with the sinks left in the transform."""
    loud = analysis.Capture(**{**vars(captured), "v": [v.clone() for v in captured.v]})
    for v in loud.v:
        v[:, :4] *= 1000
    quiet, louder = (analysis.trends(analysis.spectrum(one), resamples=99) for one in (captured, loud))
    np.testing.assert_array_equal(quiet["rise"], louder["rise"])
    apart = analysis.trends(analysis.spectrum(captured, sinks="separate"), resamples=99)
    assert (apart.attrs["sinks"], apart.attrs["middle_start"]) == ("separate", 36)
    deep = analysis.trends(analysis.spectrum(captured, level=8), resamples=99)
    np.testing.assert_allclose(deep["rise"], quiet["rise"])


@pytest.mark.parametrize("settings", [{"transform": "swt"}, {"transform": "packet"}, {"wavelet": "db2", "level": 3}])
def test_other_transforms(captured, settings):
    spectrum = analysis.spectrum(captured, **settings)
    found = analysis.trends(spectrum, resamples=99)
    bands = spectrum["band"].values[1:]
    assert found["band"].values.tolist() == bands.tolist()
    reach = 3 + int(spectrum["support"][1:].max())
    assert (
        found.attrs["middle_start"] == (32 if settings["transform"] == "packet" else max(32, reach))
        if ("transform" in settings)
        else max(32, reach)
    )


def test_figure_2_is_accepted():
    samples = analysis.paper.figure2(tiny.llama(), None, [tiny.tokens(1600)[0]], tokens=256, samples=6)
    found = analysis.trends(samples, resamples=99)
    assert (found.attrs["samples"], found.attrs["texts"], found.attrs["tokens"]) == (6, 1, 256)
    assert "growth_by_head" not in found
    rows = samples["query_amplitude"].sel(band="D3").values
    assert float(found["last"].sel(band="D3")) == pytest.approx(rows[:, 160:224].mean(), rel=1e-5)


def test_margins():
    spectrum = made()
    found = analysis.trends(spectrum, resamples=99, margins=(64, 200))
    assert (found.attrs["middle_start"], found.attrs["middle_stop"]) == (64, 288)
    assert found.attrs["last_positions"] == 64
    spectrum.attrs["sink_count"] = 4
    with pytest.raises(TreeKVError, match=r"first margin is 4, but .* position 31 in D5; give at least 32, or .*sinks"):
        analysis.trends(spectrum, margins=(4, 252))
    spectrum.attrs["sinks"] = "separate"
    assert analysis.trends(spectrum, resamples=99, margins=(4, 252)).attrs["middle_stop"] == 256


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"protocol": "the paper"}, "protocol is 'the paper'; give one of 'paper', 'to the last token'"),
        ({"margins": 32}, r"margins is 32; give two numbers"),
        ({"margins": (32, -1)}, r"margins is \(32, -1\)"),
        ({"margins": (32, 32), "protocol": "to the last token"}, "leaves no positions out"),
        ({"margins": (300, 200)}, r"margins of 300 and 200 positions the text has 0 runs.*longer text"),
        ({"resamples": 98}, "resamples is 98"),
    ],
)
def test_bad_arguments_are_refused(arguments, words):
    with pytest.raises(TreeKVError, match=words):
        analysis.trends(made(), **arguments)


def test_silent_bands_decide_nothing():
    spectrum = made()
    spectrum["query_amplitude"] = spectrum["query_amplitude"] * 0
    found = analysis.trends(spectrum, resamples=99)
    assert [found.attrs[name] for name in claims["VERDICTS"]] == ["not decided"] * 3
    assert np.isnan(found["growth"]).all()


def test_saved_and_opened_again(tmp_path):
    found = analysis.trends(made(), resamples=99)
    assert analysis.open(analysis.save(found, tmp_path / "trends.nc")).identical(found)
