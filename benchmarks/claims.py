"""How often `analysis.trends` gives the right answer, on synthetic contributions whose answer is known.

    python benchmarks/claims.py                                  # 200 draws of each, the table in docs/wavelets.md
    python benchmarks/claims.py --draws 50 --samples 8 --kinds only-i ar-0.995

Contributions are Haar components of white noise with an envelope for each band, times the loudness of each token, which
all bands share; the transform, the spectrum and the tests see them as they see a model's. A cell is the share of draws
called "holds", and in brackets "fails", in the paper's comparison.
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

import numpy as np
import torch
import xarray as xr
from scipy import signal

import analysis
from analysis.wavelets.bands import transform_of
from analysis.wavelets.haar import haar_wavedec, haar_waverec

LEVELS = 5
LONGEST = 2**LEVELS  # positions of a coefficient of D5
VERDICTS = ("claim_i", "claim_ii_absolute", "claim_ii_ratio")


class Kind(NamedTuple):
    """Synthetic contributions, bands D5 ... D1.

    Attributes:
        level: amplitude of each band at the start; at the end it is `growth` times that.
        growth: level until the middle of the text, then rising.
        loudness: of the tokens: "steady", "tokens" (lognormal, each for itself), "runs" (lognormal, alike in 32
            tokens), or the coefficient of an autoregressive process of its logarithm.
        true: which of `VERDICTS` are true.
    """

    level: tuple[float, ...]
    growth: tuple[float, ...]
    loudness: str | float
    true: tuple[bool, bool, bool]


_FALLS = (0.64, 0.75, 0.85, 0.93, 1.0)  # towards the low bands, as in SmolLM2
_ALIKE = (1.0,) * LEVELS
_NONE = (False, False, False)
KINDS = {
    "both": Kind(_FALLS, (2.0, 2.25, 2.5, 2.75, 3.0), "runs", (True, True, True)),
    "i-and-absolute": Kind(_FALLS, (2.5,) * LEVELS, "runs", (True, True, False)),
    "only-i": Kind(_ALIKE, (2.5,) * LEVELS, "runs", (True, False, False)),
    "falling": Kind(_FALLS, (0.4,) * LEVELS, "runs", _NONE),
    "white": Kind(_FALLS, _ALIKE, "steady", _NONE),
    "loud-tokens": Kind(_FALLS, _ALIKE, "tokens", _NONE),
    "loud-runs": Kind(_FALLS, _ALIKE, "runs", _NONE),
    "ar-0.9": Kind(_FALLS, _ALIKE, 0.9, _NONE),
    "ar-0.995": Kind(_FALLS, _ALIKE, 0.995, _NONE),
}


def draw(kind: Kind, samples: int, tokens: int, generator: np.random.Generator, channels: int = 16) -> xr.Dataset:
    """A spectrum as `trends` takes it: the last query of `samples` texts of `tokens` tokens, a multiple of 32."""
    noise = torch.from_numpy(generator.normal(size=(samples, channels, tokens)).astype(np.float32))
    rest, *details = haar_wavedec(noise, LEVELS)
    # Constant on the longest coefficient, so that growth is the same in bands that have the same `growth`.
    place = (np.arange(tokens // LONGEST) + 0.5) * LONGEST / tokens
    shape = np.clip(2 * place - 1, 0, None) ** 1.5
    bands = [rest]
    for detail, level, growth, depth in zip(details, kind.level, kind.growth, range(LEVELS, 0, -1), strict=True):
        envelope = level * 2 ** (depth / 2) * (1 + (growth - 1) * shape)
        bands.append(detail * torch.from_numpy(np.repeat(envelope, LONGEST >> depth).astype(np.float32)))
    loud = torch.from_numpy(_loudness(kind.loudness, samples, tokens, generator).astype(np.float32))
    contributions = haar_waverec(bands, tokens) * loud[:, None]
    transform = transform_of(tokens, level=LEVELS)
    amplitude = transform.statistics(contributions.transpose(1, 2)).amplitude.numpy()
    return xr.Dataset(
        {
            "amplitude": (("band", "position"), amplitude.mean(0)),
            "query_amplitude": (("query", "band", "position"), amplitude),
        },
        coords={
            "band": transform.names,
            "level": ("band", transform.levels),
            "support": ("band", transform.support),
            "position": np.arange(tokens),
            "query": np.full(samples, tokens - 1),
            "text": ("query", np.arange(samples)),
        },
        attrs={"wavelet": "haar", "transform": "dwt", "sinks": "include", "sink_count": 0, "tokens": tokens},
    )


def _loudness(name: str | float, samples: int, tokens: int, generator: np.random.Generator) -> np.ndarray:
    """Of each token, [samples, tokens]."""
    if name == "steady":
        return np.ones((samples, tokens))
    if name == "runs":
        return np.repeat(np.exp(0.5 * generator.normal(size=(samples, tokens // LONGEST))), LONGEST, axis=1)
    steps = generator.normal(size=(samples, tokens))
    if name == "tokens":
        return np.exp(0.7 * steps)
    memory = float(name)
    steps[:, 1:] *= np.sqrt(1 - memory**2)  # so that the process is stationary from the start
    return np.exp(0.5 * signal.lfilter([1], [1, -memory], steps, axis=1))


def rates(
    kind: Kind, samples: int, tokens: int, draws: int, generator: np.random.Generator
) -> dict[str, tuple[float, float]]:
    """The shares of draws whose verdict is "holds" and "fails", for each of `VERDICTS`."""
    words = []
    for number in range(draws):
        found = analysis.trends(draw(kind, samples, tokens, generator), seed=number)
        words.append([found.attrs[name] for name in VERDICTS])
    every = np.array(words)
    return {
        name: (float((every[:, i] == "holds").mean()), float((every[:, i] == "fails").mean()))
        for i, name in enumerate(VERDICTS)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--samples", type=int, nargs="+", default=[1, 4, 8, 32])
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(f"{arguments.draws} draws, {arguments.tokens} tokens, holds (fails) in per cent; * is true")
    print("| signal | samples | claim (i) | (ii), rise | (ii), growth |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name in arguments.kinds:
        for samples in arguments.samples:
            generator = np.random.default_rng([arguments.seed, samples, list(KINDS).index(name)])
            found = rates(KINDS[name], samples, arguments.tokens, arguments.draws, generator)
            cells = [
                f"{100 * holds:.1f} ({100 * fails:.1f}){' *' if true else ''}"
                for (holds, fails), true in zip(found.values(), KINDS[name].true, strict=True)
            ]
            print(f"| {name} | {samples} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
