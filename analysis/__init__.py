"""Analysis of token contributions, from a capture to labelled arrays and figures.

For notebooks and for the app. Everything here returns labelled arrays (xarray), plotly figures or settings,
and prints nothing.
"""

from analysis import plot
from analysis.agreement import agreement
from analysis.bias import bias
from analysis.capture import Capture, capture, open_capture
from analysis.captures import capture_many, open_captures
from analysis.contributions import contributions
from analysis.growth import growth
from analysis.loss import loss, open_loss, save_loss
from analysis.memory import memory, memory_by_context
from analysis.pool import pool
from analysis.recommend import Recommendation, recommend
from analysis.retention import (
    combine,
    density,
    held,
    open_retention,
    retention_from_cache,
    retention_map,
    save_retention,
)
from analysis.simulate import simulate
from analysis.spectrum import coefficients, open_spectrum, save_spectrum, spectrum
from analysis.tree import tree
from analysis.trends import open_trends, save_trends, trends

__all__ = [
    "Capture",
    "Recommendation",
    "agreement",
    "bias",
    "capture",
    "capture_many",
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
