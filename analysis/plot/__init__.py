"""Figures, one file each. Every function returns a plotly Figure (`text_loss` and `text_retention`: HTML) and displays
nothing.

All functions take their arguments in the same way. The first one, `data`, is the labelled array (`worked_example`: the
steps) to draw; all others are keyword-only and always in this order, with the same meaning everywhere:

    policy, policies          one policy, or several to draw
    layer, head               a single layer or head; None averages over all (`tree` draws the first)
    band, context             a wavelet band, a length of the context
    step, steps               the state after a step (None: the last), or the steps first ... end - 1
    start, stop               positions start ... stop - 1 of the text; None leaves that end open (`tree`: a short part)
    spread, by                variants of the figure

What does not exist raises a TreeKVError that lists the choices. The text alternative of a figure is in
`figure.layout.meta["alt"]`.
"""

from analysis.plot.agreement_figure import agreement
from analysis.plot.bias_figure import bias
from analysis.plot.budget_figure import budget_curve
from analysis.plot.coefficients_figure import coefficients
from analysis.plot.density_figure import density
from analysis.plot.difference import retention_difference
from analysis.plot.distribution_figure import distribution_maps
from analysis.plot.eviction_maps_figure import eviction_map, eviction_maps
from analysis.plot.forgotten_figure import forgotten
from analysis.plot.growth import growth_grid
from analysis.plot.head_maps_figure import head_maps
from analysis.plot.loss_text import text_loss
from analysis.plot.lost import mass_retained, output_error
from analysis.plot.memory_figure import memory
from analysis.plot.need_figure import need_budgets
from analysis.plot.paper_bands_figure import paper_bands
from analysis.plot.retained_text import text_retention
from analysis.plot.sinks_figure import sinks
from analysis.plot.spectrum_figure import spectrum
from analysis.plot.survival_figure import survival
from analysis.plot.tree_figure import tree
from analysis.plot.trends_figure import trends
from analysis.plot.worked_example_figure import worked_example

__all__ = [
    "agreement",
    "bias",
    "budget_curve",
    "coefficients",
    "density",
    "distribution_maps",
    "eviction_map",
    "eviction_maps",
    "forgotten",
    "growth_grid",
    "head_maps",
    "mass_retained",
    "memory",
    "need_budgets",
    "output_error",
    "paper_bands",
    "retention_difference",
    "sinks",
    "spectrum",
    "survival",
    "text_loss",
    "text_retention",
    "tree",
    "trends",
    "worked_example",
]
