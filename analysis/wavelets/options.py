"""Everything that can be chosen about a wavelet transform of contributions, in one object."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from analysis.wavelets.bands import DEFAULT_LEVEL, WaveletTransform, transform_of
from analysis.wavelets.haar import MODE
from treekv.errors import TreeKVError

SINKS = ("separate", "include")


@dataclass(frozen=True)
class WaveletOptions:
    """Which wavelet, how deep, and what happens at the ends of the signal.

    Attributes:
        wavelet: any discrete wavelet of PyWavelets.
        level: depth; None for the paper's 5 (packets: 3), or the deepest that the length allows.
        mode: how the signal is extended beyond its ends: "symmetric", "zero", "periodization" or another of
            pywt.Modes.modes.
        transform: "dwt" (the paper's), "swt" (moves with the signal: for claims about location) or "packet"
            (bands of equal width: a finer split of the high ones).
        sinks: the first `sink_count` tokens carry many times the amplitude of the rest. "include", as in the paper,
            leaves them in the transform and only drops their positions from the result. There they leak into the
            positions that share a coefficient with them: at 5 levels the first 32, which the paper leaves out of its
            picture, at 8 the first 256. "separate" removes them before the transform, so that they affect no band.
        sink_count: how many first tokens count as sinks.
    """

    wavelet: str = "haar"
    level: int | None = None
    mode: str = MODE
    transform: str = "dwt"
    sinks: str = "include"
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

    @property
    def recorded(self) -> dict[str, Any]:
        """The fields as a folder of spectra records them: those that differ from the defaults of the first version.

        Its defaults were 8 levels and sinks="separate". They stay the base, so that a folder continues only with the
        options that it was begun with.
        """
        fields = {**dataclasses.asdict(self), "level": self.level or f"{DEFAULT_LEVEL.get(self.transform)} or less"}
        first = {**dataclasses.asdict(WaveletOptions(sinks="separate")), "level": "8 or less"}
        if self.transform == "packet":
            first["level"] = fields["level"] if self.level is None else None
        return {name: value for name, value in fields.items() if value != first[name]}

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
