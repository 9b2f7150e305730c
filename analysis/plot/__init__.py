"""Figures, one file each; every function returns a plotly Figure and draws nothing by itself."""

from analysis.plot.coefficients import coefficients
from analysis.plot.eviction_map import eviction_map
from analysis.plot.spectrum import spectrum

__all__ = ["coefficients", "eviction_map", "spectrum"]
