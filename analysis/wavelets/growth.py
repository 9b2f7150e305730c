"""How much larger a band's amplitude is at the end of a text than at its start: one ratio per layer, head and band."""

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
        """Of a text of `length` positions, sinks not counted; the tail is a quarter where that is shorter."""
        quarter = max(1, length // 4)
        return cls(quarter, min(TAIL, quarter))

    def growth(self, amplitude: np.ndarray) -> np.ndarray:
        """Mean of the tail over mean of the quarter along the last axis; infinite or NaN after silence."""
        start = amplitude[..., : self.quarter].mean(-1, dtype=np.float64)
        end = amplitude[..., -self.tail :].mean(-1, dtype=np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            return end / start


def band_growth(spectrum: xr.Dataset) -> xr.DataArray:
    """Mean amplitude over the last 64 positions divided by that over the first quarter: (layer, head, band).

    `spectrum` is what `analysis.spectrum` or `pool` gives. attrs first_positions and last_positions say how many
    positions were divided. The ratio of all heads' mean is in `analysis.trends`, with its interval.
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
