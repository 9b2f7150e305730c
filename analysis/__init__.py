"""Analysis of token contributions, for notebooks and for the app: capture, spectrum, trends, figures.

Everything here returns labelled arrays (xarray), plotly figures or settings, and prints nothing.
"""

from analysis import plot
from analysis.capture import Capture, capture, open_capture
from analysis.spectrum import open_spectrum, save_spectrum, spectrum

__all__ = [
    "Capture",
    "capture",
    "open_capture",
    "open_spectrum",
    "plot",
    "save_spectrum",
    "spectrum",
]
