"""Growth of a band's amplitude from the start of a text to its end: one ratio per layer, head and band."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import xarray as xr

TAIL = 64  # positions at the end


class Ends(NamedTuple):
    """The two stretches whose amplitudes are divided: the first quarter and the last 64 positions."""

    quarter: int
    tail: int

    @classmethod
    def of(cls, length: int) -> Ends:
        """For a text of `length` positions, sinks not counted; the tail is at most a quarter of it."""
        quarter = max(1, length // 4)
        return cls(quarter, min(TAIL, quarter))

    def growth(self, amplitude: np.ndarray) -> np.ndarray:
        """Mean of the tail divided by mean of the quarter along the last axis; infinite or NaN where that is zero."""
        start = amplitude[..., : self.quarter].mean(-1, dtype=np.float64)
        end = amplitude[..., -self.tail :].mean(-1, dtype=np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            return end / start


def band_growth(spectrum: xr.Dataset) -> xr.DataArray:
    """Mean amplitude over the last 64 positions divided by that over the first quarter: (layer, head, band).

    `spectrum` is a result of `analysis.spectrum` or `mean_spectrum`. attrs first_positions and last_positions are the
    numbers of positions averaged. The ratio for the mean of all heads is in `analysis.trends`, with its interval.
    """
    amplitude = spectrum["amplitude"].transpose("layer", "head", "band", "position")
    ends = Ends.of(amplitude.sizes["position"])
    kept = {name: spectrum[name] for name in ("layer", "head", "band", "level")}
    return xr.DataArray(
        ends.growth(amplitude.values),
        dims=("layer", "head", "band"),
        coords=kept,
        name="growth",
        attrs={"units": "1", "first_positions": ends.quarter, "last_positions": ends.tail},
    )
