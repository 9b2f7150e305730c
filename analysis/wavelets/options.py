"""Everything that can be chosen about a wavelet transform of contributions, in one object."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from analysis.wavelets.bands import WaveletTransform, transform_of
from analysis.wavelets.haar import MODE
from treekv.errors import TreeKVError

SINKS = ("separate", "include")


@dataclass(frozen=True)
class WaveletOptions:
    """Which wavelet, how deep, and what happens at the ends of the signal.

    Attributes:
        wavelet: any discrete wavelet of PyWavelets.
        level: depth; None for 8 (packets: 3), or the deepest that the length allows.
        mode: how the signal is extended beyond its ends: "symmetric", "zero", "periodization" or another of
            pywt.Modes.modes.
        transform: "dwt" (the paper's), "swt" (moves with the signal: for claims about location) or "packet"
            (bands of equal width: a finer split of the high ones).
        sinks: the first `sink_count` tokens carry many times the amplitude of the rest. "separate" removes
            them before the transform, so that they do not affect the bands. "include" leaves them in the transform,
            where they leak into the low bands of the first quarter, and only drops their positions from the result;
            the paper does not mention removing them.
        sink_count: how many first tokens count as sinks.
    """

    wavelet: str = "haar"
    level: int | None = None
    mode: str = MODE
    transform: str = "dwt"
    sinks: str = "separate"
    sink_count: int = 4

    @classmethod
    def of(cls, wavelet: str | WaveletOptions = "haar", level: int | None = None, **others: Any) -> WaveletOptions:
        """Options from keyword arguments; given options are kept, changed by `level` (unless None) and `others`."""
        if isinstance(wavelet, WaveletOptions):
            return dataclasses.replace(wavelet, level=wavelet.level if level is None else level, **others)
        return cls(wavelet, level, **others)

    @property
    def start(self) -> int:
        """Position of the first token that is transformed."""
        return self.sink_count if self.sinks == "separate" else 0

    @property
    def changed(self) -> dict[str, Any]:
        """The fields that differ from the defaults, by name."""
        return {
            field.name: value
            for field in dataclasses.fields(self)
            if (value := getattr(self, field.name)) != field.default
        }

    def transform_for(self, first_query: int) -> WaveletTransform:
        """The transform for the tokens that queries at position `first_query` or later see.

        Raises TreeKVError for an unknown wavelet, mode, transform or treatment of the sinks, a level that the length
        does not allow, or too many sinks.
        """
        if self.sinks not in SINKS:
            raise TreeKVError(f"sinks is {self.sinks!r}; give 'separate' or 'include', and their number as sink_count")
        if not 0 <= self.sink_count < first_query:
            raise TreeKVError(
                f"sink_count is {self.sink_count}; give 0 to {first_query - 1}, so that every query keeps 2 tokens"
            )
        return transform_of(first_query + 1 - self.start, self.wavelet, self.level, self.mode, self.transform)
