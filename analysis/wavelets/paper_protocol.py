"""The paper's comparison: bands D1 ... D5 between the protected ends of a text, as its last query sees them."""

from __future__ import annotations

import numpy as np
import xarray as xr

from analysis.wavelets.last_token import in_every_band
from analysis.wavelets.middle import LEVELS, MARGIN, WINDOW, Middle, claimed_bands, last_queries
from analysis.wavelets.middle_statistics import (
    ENOUGH_SAMPLES,
    OF_BANDS,
    OF_ORDER,
    Measures,
    by_chance,
    intervals,
    limits,
    measure,
    p_values,
)

_LEAST_RUNS = 6  # with fewer no shuffled order is rare
_LEAST_BANDS = 3
_GREW = 1.1  # growth of up to a tenth counts as none, and so does a tenth more in the highest band than in the lowest
_ALPHA = 0.05
_ALPHA_OF_FEW = 0.01

RULES = (
    f"The paper's protocol: the bands D1 to D{LEVELS} (of packets all but the lowest), the contributions that the last "
    f"query of each sample sees, averaged over channels, query heads and layers, without the first and last {MARGIN} "
    "positions or the margins given; a coefficient that reaches into a margin is left out. The middle is cut into runs "
    "as long as a coefficient of the coarsest band. The last runs are compared with the first, "
    f"{WINDOW} positions each or a third of the middle: rise is their difference, growth their ratio. With "
    f"{ENOUGH_SAMPLES} samples or more, intervals are 95 % bootstrap intervals over samples, and chance reads each "
    "sample forwards or backwards at random. With fewer, chance shuffles the runs of each sample, and an interval is "
    "the estimate less the middle 95 % of the shuffled orders. p-values are one-sided, for a rise; they are small if "
    f"at most {_ALPHA}, with fewer than {ENOUGH_SAMPLES} samples at most {_ALPHA_OF_FEW}, since a level that wanders "
    "along the text is taken for a trend too often otherwise. "
    f"Claim (i) in a band: it grew if growth's interval lies above {_GREW} and its p is small, it did not if the "
    f"interval lies at or below {_GREW}; it rises if the Spearman correlation of amplitude and position is positive "
    "and its p small. The claim holds if the band grew and rises, fails if it did not grow and does not rise, and is "
    f"else not decided, as it is with fewer than {_LEAST_RUNS} runs. Overall it holds if it holds in every band, fails "
    "if it fails in any, else it is not decided. Claim (ii) has two readings: the rise, an absolute amplitude, is "
    "larger in higher bands, or the growth, a ratio, is. A reading holds if claim (i) holds in the highest band, the "
    "largest value is in the upper half of the bands, and the slope of the values over the bands is positive with an "
    f"interval above 0 and a small p. It fails if claim (i) fails in the highest band, or if the interval excludes "
    f"that the highest band exceeds the lowest by a tenth. Else, and with fewer than {_LEAST_BANDS} bands, it is not "
    "decided. Claim (ii) holds or fails if both readings do, and depends on the reading if one of them holds."
)


def paper_trends(spectrum: xr.Dataset, margins: tuple[int, int] | None, resamples: int, seed: int) -> xr.Dataset:
    """The Dataset of `analysis.trends` with protocol="paper", without what both protocols share."""
    spectrum = claimed_bands(spectrum)
    middle = Middle.of(spectrum, margins)
    runs = middle.runs(last_queries(spectrum), spectrum["position"].values)
    generator = np.random.default_rng(seed)
    found = measure(runs.mean(0), middle.window)
    chance = by_chance(runs, middle.window, resamples, generator)
    low, high = intervals(runs, middle.window, found, chance, generator)
    p, limit = p_values(found, chance), limits(chance)
    small = _ALPHA if len(runs) >= ENOUGH_SAMPLES else _ALPHA_OF_FEW

    count = runs.shape[-1]
    claim_i = []
    for band in range(len(low["growth"])):
        grew = (float(x["growth"][band]) for x in (low, high, p))
        rises = found["rank_correlation"][band] > 0 and p["rank_correlation"][band] <= small
        claim_i.append(_claim_i(*grew, rises=bool(rises), runs=count, small=small))
    # A tenth more in the highest band than in the lowest, as a slope.
    steps = max(len(claim_i) - 1, 1)
    tenth = {"absolute": (_GREW - 1) * abs(found["rise"].mean()) / steps, "ratio": np.log(_GREW) / steps}
    readings = {
        name: _reading(found[of], float(found[name]), float(low[name]), float(high[name]), float(p[name]), tenth[name],
                       claim_i, small)
        for name, of in zip(OF_ORDER, ("rise", "growth"), strict=True)
    }  # fmt: skip
    first, last = runs.mean(0)[:, : middle.window].mean(-1), runs.mean(0)[:, -middle.window :].mean(-1)
    unit = spectrum["query_amplitude"].attrs.get("units", "units of the values")
    numbers: dict[str, tuple[str, np.ndarray, dict[str, str]]] = {
        "first": ("band", first, {"units": unit}),
        "last": ("band", last, {"units": unit}),
    }
    for name in OF_BANDS:
        for suffix, values in (("", found), ("_low", low), ("_high", high), ("_null", limit)):
            value = np.exp(values[name]) if name == "growth" else values[name]
            numbers[name + suffix] = ("band", value, {"units": unit if name == "rise" else "1"})
    return xr.Dataset(
        {
            **numbers,
            "rise_p_value": ("band", p["rise"]),
            "growth_p_value": ("band", p["growth"]),
            "p_value": ("band", p["rank_correlation"]),
            "curve": (("band", "run"), runs.mean(0), {"units": unit}),
            "claim_i": ("band", np.asarray(claim_i)),
            **_by_head(spectrum, middle),
        },
        coords={
            **{name: spectrum.coords[name] for name in ("band", "level", "layer", "head") if name in spectrum.coords},
            "run": np.arange(middle.start, middle.stop, middle.run, dtype=np.int32),
        },
        attrs={
            "claim_i": in_every_band(claim_i),
            "claim_ii": _both(*readings.values()),
            **{f"claim_ii_{name}": word for name, word in readings.items()},
            **_order(found, low, high, limit, p),
            "claim_ii_top_rise": str(spectrum["band"].values[_top(found["rise"])]),
            "claim_ii_top_growth": str(spectrum["band"].values[_top(found["growth"])]),
            "samples": len(runs),
            "middle_start": middle.start,
            "middle_stop": middle.stop,
            "run_positions": middle.run,
            "first_positions": middle.window * middle.run,
            "last_positions": middle.window * middle.run,
            "rules": RULES,
        },
    )


def _by_head(spectrum: xr.Dataset, middle: Middle) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    """Growth of every head, over all captured queries; nothing for a mean over heads."""
    amplitude = spectrum.get("amplitude")
    if amplitude is None or not {"layer", "head"} <= set(amplitude.dims):
        return {}
    heads = middle.runs(amplitude.transpose("layer", "head", "band", "position").values, spectrum["position"].values)
    with np.errstate(divide="ignore", invalid="ignore"):
        growth = heads[..., -middle.window :].mean(-1) / heads[..., : middle.window].mean(-1)
    return {
        "growth_by_head": (("layer", "head", "band"), growth.astype(np.float32)),
        "share_growing": (("band",), (growth > _GREW).mean((0, 1))),
    }


def _order(found: Measures, low: Measures, high: Measures, limit: Measures, p: Measures) -> dict[str, float]:
    """The slopes over the bands as attributes; of the ratio, the factor from one band to the next."""
    numbers = {}
    for name, scale in (("absolute", float), ("ratio", lambda x: float(np.exp(x)))):
        for suffix, values in (("", found), ("_low", low), ("_high", high), ("_null", limit)):
            numbers[f"{name}_step{suffix}"] = scale(values[name])
        numbers[f"{name}_step_p_value"] = float(p[name])
    return numbers


def _claim_i(low: float, high: float, p: float, *, rises: bool, runs: int, small: float) -> str:
    """The verdict on one band, from the ends of the interval of its logarithmic growth and the p-value of that."""
    if runs < _LEAST_RUNS or np.isnan(low):
        return "not decided"
    if low > np.log(_GREW) and p <= small and rises:
        return "holds"
    return "fails" if high <= np.log(_GREW) and not rises else "not decided"


def _reading(
    values: np.ndarray, slope: float, low: float, high: float, p: float, tenth: float, claim_i: list[str], small: float
) -> str:
    bands = len(values)
    if bands < _LEAST_BANDS or not np.isfinite(values).all():
        return "not decided"
    upper_half = _top(values) >= bands - bands // 2
    if claim_i[-1] == "holds" and upper_half and slope > 0 and low > 0 and p <= small:
        return "holds"
    return "fails" if claim_i[-1] == "fails" or high < tenth else "not decided"


def _both(absolute: str, ratio: str) -> str:
    if absolute == ratio:
        return absolute
    return "depends on the reading" if "holds" in (absolute, ratio) else "not decided"


def _top(values: np.ndarray) -> int:
    return int(np.argmax(np.where(np.isnan(values), -np.inf, values)))
