"""Figures, one file each; every function returns a plotly Figure (`text_retention`: HTML), nothing is shown here."""

from analysis.plot.agreement import agreement
from analysis.plot.bias import bias
from analysis.plot.coefficients import coefficients
from analysis.plot.density import density
from analysis.plot.difference import retention_difference
from analysis.plot.eviction_map import eviction_map, eviction_maps
from analysis.plot.growth import growth_grid
from analysis.plot.lost import mass_retained, output_error
from analysis.plot.memory import memory
from analysis.plot.recommendation import recommendation
from analysis.plot.sinks import sinks
from analysis.plot.spectrum import spectrum
from analysis.plot.text_retention import text_retention
from analysis.plot.tree import tree
from analysis.plot.trends import trends

__all__ = [
    "agreement",
    "bias",
    "coefficients",
    "density",
    "eviction_map",
    "eviction_maps",
    "growth_grid",
    "mass_retained",
    "memory",
    "output_error",
    "recommendation",
    "retention_difference",
    "sinks",
    "spectrum",
    "text_retention",
    "tree",
    "trends",
]
