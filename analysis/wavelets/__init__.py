"""Wavelet transforms of token contributions, and the statistics of the paper's claims."""

from analysis.wavelets.haar import (
    band_levels,
    band_names,
    haar_components,
    haar_packets,
    haar_stationary,
    haar_wavedec,
    haar_waverec,
)

__all__ = [
    "band_levels",
    "band_names",
    "haar_components",
    "haar_packets",
    "haar_stationary",
    "haar_wavedec",
    "haar_waverec",
]
