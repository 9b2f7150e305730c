"""Slow transcription of the paper's comparison of the two ends of the middle, in loops, for Haar spectra.

`amplitudes` is [sample][band][position], position 0 being the first token of the text and D5 the first of five bands.
"""

import math
import statistics

from scipy import stats

MARGIN, RUN, WINDOW = 32, 32, 64


def middle(tokens, margins=(MARGIN, MARGIN)):
    """First position of the middle and the one after its last: whole coefficients of D5 between the margins."""
    start, stop = math.ceil(margins[0] / RUN) * RUN, (tokens - margins[1]) // RUN * RUN
    return start, stop


def in_runs(amplitude, margins=(MARGIN, MARGIN)):
    """The mean of each run of one band of one sample."""
    start, stop = middle(len(amplitude), margins)
    return [statistics.fmean(amplitude[at : at + RUN]) for at in range(start, stop, RUN)]


def mean_over_samples(samples):
    """[band][run] from [sample][band][run]."""
    return [
        [statistics.fmean(sample[band][run] for sample in samples) for run in range(len(samples[0][band]))]
        for band in range(len(samples[0]))
    ]


def slope(values):
    """Least-squares slope over 0, 1, 2 ..."""
    return float(stats.linregress(range(len(values)), values).slope)


def measures(curves):
    """Of the mean curves [band][run]: the lists of rise, logarithmic growth and rank correlation, and both slopes."""
    window = max(1, min(WINDOW, len(curves[0]) * RUN // 3) // RUN)
    rise, growth, rank = [], [], []
    for curve in curves:
        first, last = statistics.fmean(curve[:window]), statistics.fmean(curve[-window:])
        rise.append(last - first)
        growth.append(math.log(last / first))
        rank.append(float(stats.spearmanr(range(len(curve)), curve).statistic))
    return {
        "rise": rise, "growth": growth, "rank_correlation": rank, "absolute": slope(rise), "ratio": slope(growth),
    }  # fmt: skip


def turned(samples, backwards):
    """Samples [sample][band][run], those marked in `backwards` read from the end."""
    return [
        [band[::-1] for band in sample] if turn else sample for sample, turn in zip(samples, backwards, strict=True)
    ]


def shuffled(samples, orders):
    """Samples with the runs of each in the given order, the same in all bands."""
    return [[[band[i] for i in order] for band in sample] for sample, order in zip(samples, orders, strict=True)]


def verdict(bands, alpha, runs):
    """Claim (i) of each band and both readings of claim (ii), from numbers as `measures` names them.

    `bands` has growth, growth_low, growth_high (ratios), growth_p, rank, rank_p and rise, one value a band; and for
    "absolute" and "ratio" the triple (slope, lower end, upper end, p).
    """
    words = []
    for i in range(len(bands["growth"])):
        rises = bands["rank"][i] > 0 and bands["rank_p"][i] <= alpha
        if runs < 6:
            words.append("not decided")
        elif bands["growth_low"][i] > 1.1 and bands["growth_p"][i] <= alpha and rises:
            words.append("holds")
        elif bands["growth_high"][i] <= 1.1 and not rises:
            words.append("fails")
        else:
            words.append("not decided")
    readings = {}
    steps = len(words) - 1
    for name, values, tenth in (
        ("absolute", bands["rise"], 0.1 * abs(statistics.fmean(bands["rise"])) / steps),
        ("ratio", bands["growth"], math.log(1.1) / steps),
    ):
        slope_, low, high, p = bands[name]
        top = max(range(len(values)), key=values.__getitem__)
        in_upper_half = top >= len(values) - len(values) // 2
        if words[-1] == "holds" and in_upper_half and slope_ > 0 and low > 0 and p <= alpha:
            readings[name] = "holds"
        elif words[-1] == "fails" or high < tenth:
            readings[name] = "fails"
        else:
            readings[name] = "not decided"
    overall = "fails" if "fails" in words else "not decided" if "not decided" in words else "holds"
    return words, overall, readings
