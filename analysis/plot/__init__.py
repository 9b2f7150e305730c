"""Figures, one file each. Every function returns a plotly Figure (`still_eviction_map`, `text_loss` and
`text_retention`: HTML) and displays nothing.

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

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
    from analysis.plot.still_map import still_eviction_map
    from analysis.plot.survival_figure import survival
    from analysis.plot.tree_figure import tree
    from analysis.plot.trends_figure import trends
    from analysis.plot.worked_example_figure import worked_example

# The module that defines each public name; the imports above are the same for type checkers.
_DEFINED_IN = {
    "agreement": "agreement_figure",
    "bias": "bias_figure",
    "budget_curve": "budget_figure",
    "coefficients": "coefficients_figure",
    "density": "density_figure",
    "distribution_maps": "distribution_figure",
    "eviction_map": "eviction_maps_figure",
    "eviction_maps": "eviction_maps_figure",
    "forgotten": "forgotten_figure",
    "growth_grid": "growth",
    "head_maps": "head_maps_figure",
    "mass_retained": "lost",
    "memory": "memory_figure",
    "need_budgets": "need_figure",
    "output_error": "lost",
    "paper_bands": "paper_bands_figure",
    "retention_difference": "difference",
    "sinks": "sinks_figure",
    "spectrum": "spectrum_figure",
    "still_eviction_map": "still_map",
    "survival": "survival_figure",
    "text_loss": "loss_text",
    "text_retention": "retained_text",
    "tree": "tree_figure",
    "trends": "trends_figure",
    "worked_example": "worked_example_figure",
}

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
    "still_eviction_map",
    "survival",
    "text_loss",
    "text_retention",
    "tree",
    "trends",
    "worked_example",
]


def __getattr__(name: str) -> Any:
    if name not in _DEFINED_IN:
        raise AttributeError(f"module 'analysis.plot' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"analysis.plot.{_DEFINED_IN[name]}"), name)
    globals()[name] = value  # the next access does not come here
    return value


def __dir__() -> list[str]:
    return __all__
