"""Analysis of token contributions, from a capture to labelled arrays and figures.

For notebooks and for the app. Everything here returns labelled arrays (xarray), plotly figures or settings,
and prints nothing. Each name is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import treekv as _treekv  # noqa: F401  # models can be made with the attention that captures need

if TYPE_CHECKING:
    from analysis import evaluation, paper, plot
    from analysis.captures.contributions import contributions
    from analysis.captures.data import Capture
    from analysis.captures.many import open_captures
    from analysis.keep_argument import capture, capture_many
    from analysis.memory_size import cache_bytes, cache_bytes_by_context
    from analysis.prediction.budget_curve import budget_curve
    from analysis.prediction.loss_table import extra_loss
    from analysis.prediction.measure import measure
    from analysis.prediction.needles import find_needles
    from analysis.prediction.replay import replay
    from analysis.recommendation.classes import budget_classes
    from analysis.recommendation.recommend import Recommendation, recommend
    from analysis.result_files import open, save
    from analysis.retention.agreement import agreement
    from analysis.retention.bias import recency_bias
    from analysis.retention.compare import compare
    from analysis.retention.family import family, family_in_words
    from analysis.retention.forgotten import forgotten, forgotten_in_words
    from analysis.retention.loss import output_loss
    from analysis.retention.record import density, kept_mask, merge_retention, retention_from_cache, retention_map
    from analysis.retention.regret import most_costly, regret
    from analysis.retention.simulate import simulate
    from analysis.retention.tree import eviction_tree
    from analysis.wavelets.band_survival import survival
    from analysis.wavelets.capture_spectrum import capture_spectra, capture_spectrum
    from analysis.wavelets.far_context import need, need_budgets
    from analysis.wavelets.growth import band_growth
    from analysis.wavelets.options import WaveletOptions
    from analysis.wavelets.pooled_spectrum import mean_spectrum
    from analysis.wavelets.spectrum import coefficients, spectrum
    from analysis.wavelets.trends import trends

# The module that defines each public name; the imports above are the same for type checkers.
_DEFINED_IN = {
    "Capture": "captures.data",
    "Recommendation": "recommendation.recommend",
    "WaveletOptions": "wavelets.options",
    "agreement": "retention.agreement",
    "band_growth": "wavelets.growth",
    "budget_classes": "recommendation.classes",
    "budget_curve": "prediction.budget_curve",
    "cache_bytes": "memory_size",
    "cache_bytes_by_context": "memory_size",
    "capture": "keep_argument",
    "capture_many": "keep_argument",
    "capture_spectra": "wavelets.capture_spectrum",
    "capture_spectrum": "wavelets.capture_spectrum",
    "coefficients": "wavelets.spectrum",
    "compare": "retention.compare",
    "contributions": "captures.contributions",
    "density": "retention.record",
    "eviction_tree": "retention.tree",
    "extra_loss": "prediction.loss_table",
    "family": "retention.family",
    "family_in_words": "retention.family",
    "find_needles": "prediction.needles",
    "forgotten": "retention.forgotten",
    "forgotten_in_words": "retention.forgotten",
    "kept_mask": "retention.record",
    "mean_spectrum": "wavelets.pooled_spectrum",
    "measure": "prediction.measure",
    "merge_retention": "retention.record",
    "most_costly": "retention.regret",
    "need": "wavelets.far_context",
    "need_budgets": "wavelets.far_context",
    "open": "result_files",
    "open_captures": "captures.many",
    "output_loss": "retention.loss",
    "recency_bias": "retention.bias",
    "recommend": "recommendation.recommend",
    "regret": "retention.regret",
    "replay": "prediction.replay",
    "retention_from_cache": "retention.record",
    "retention_map": "retention.record",
    "save": "result_files",
    "simulate": "retention.simulate",
    "spectrum": "wavelets.spectrum",
    "survival": "wavelets.band_survival",
    "trends": "wavelets.trends",
}
_SUBPACKAGES = ("captures", "evaluation", "paper", "plot", "prediction", "recommendation", "retention", "wavelets")

__all__ = [
    "Capture",
    "Recommendation",
    "WaveletOptions",
    "agreement",
    "band_growth",
    "budget_classes",
    "budget_curve",
    "cache_bytes",
    "cache_bytes_by_context",
    "capture",
    "capture_many",
    "capture_spectra",
    "capture_spectrum",
    "coefficients",
    "compare",
    "contributions",
    "density",
    "evaluation",
    "eviction_tree",
    "extra_loss",
    "family",
    "family_in_words",
    "find_needles",
    "forgotten",
    "forgotten_in_words",
    "kept_mask",
    "mean_spectrum",
    "measure",
    "merge_retention",
    "most_costly",
    "need",
    "need_budgets",
    "open",
    "open_captures",
    "output_loss",
    "paper",
    "plot",
    "recency_bias",
    "recommend",
    "regret",
    "replay",
    "retention_from_cache",
    "retention_map",
    "save",
    "simulate",
    "spectrum",
    "survival",
    "trends",
]


def __getattr__(name: str) -> Any:
    if name in _SUBPACKAGES:
        return importlib.import_module(f"analysis.{name}")
    if name in _DEFINED_IN:
        value = getattr(importlib.import_module(f"analysis.{_DEFINED_IN[name]}"), name)
        globals()[name] = value  # the next access does not come here
        return value
    if name.startswith("_"):  # what Python and IPython look for themselves
        raise AttributeError(f"module 'analysis' has no attribute {name!r}")
    from analysis.deprecated import find

    return find(name)


def __dir__() -> list[str]:
    return __all__
