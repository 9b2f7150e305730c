"""Figures, one file each; every function returns a plotly Figure and draws nothing by itself."""

from analysis.plot.spectrum import spectrum

__all__ = ["spectrum"]
