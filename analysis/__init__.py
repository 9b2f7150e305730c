"""Analysis of token contributions, from a capture to labelled arrays and figures.

For notebooks and for the app. Everything here returns labelled arrays (xarray), plotly figures or settings,
and prints nothing.
"""

from analysis import plot
from analysis.captures.contributions import contributions
from analysis.captures.data import Capture, open_capture
from analysis.captures.many import open_captures
from analysis.deprecated import capture_accepting_keep as capture
from analysis.deprecated import capture_many_accepting_keep as capture_many
from analysis.memory_size import memory, memory_by_context
from analysis.recommendation.recommend import Recommendation, recommend
from analysis.retention.agreement import agreement
from analysis.retention.bias import bias
from analysis.retention.loss import loss, open_loss, save_loss
from analysis.retention.record import (
    combine,
    density,
    held,
    open_retention,
    retention_from_cache,
    retention_map,
    save_retention,
)
from analysis.retention.simulate import simulate
from analysis.retention.tree import tree
from analysis.wavelets.capture_spectrum import capture_spectra, capture_spectrum
from analysis.wavelets.growth import growth
from analysis.wavelets.options import WaveletOptions
from analysis.wavelets.pooled_spectrum import pool
from analysis.wavelets.spectrum import coefficients, open_spectrum, save_spectrum, spectrum
from analysis.wavelets.trends import open_trends, save_trends, trends

__all__ = [
    "Capture",
    "Recommendation",
    "WaveletOptions",
    "agreement",
    "bias",
    "capture",
    "capture_many",
    "capture_spectra",
    "capture_spectrum",
    "coefficients",
    "combine",
    "contributions",
    "density",
    "growth",
    "held",
    "loss",
    "memory",
    "memory_by_context",
    "open_capture",
    "open_captures",
    "open_loss",
    "open_retention",
    "open_spectrum",
    "open_trends",
    "plot",
    "pool",
    "recommend",
    "retention_from_cache",
    "retention_map",
    "save_loss",
    "save_retention",
    "save_spectrum",
    "save_trends",
    "simulate",
    "spectrum",
    "tree",
    "trends",
]
