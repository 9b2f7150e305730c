"""What the page Take away gives: figures of the run and of the chosen settings, and the one-page report."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Final

import plotly.graph_objects as go

from analysis import plot
from app.dashboard.actions import compare, generate
from app.dashboard.session.run import open_spectrum
from app.report.one_page import one_page
from app.runs import folder as run_folder
from app.runs.folder import RunFolder
from app.text import captions, wording
from treekv import TreeKVConfig

CONTEXT: Final = 32768  # tokens for which memory is told
DTYPE: Final = "bfloat16"

Figure = tuple[Callable[[], go.Figure], str]


def settings_json(config: TreeKVConfig) -> str:
    """The settings file, as `TreeKVConfig.save` writes it."""
    return json.dumps(config.to_dict(), indent=2) + "\n"


def figures(run: RunFolder, config: TreeKVConfig) -> dict[str, Figure]:
    """Pictures by name, each with the sentence that reads it; those of the run's files only where these are there."""
    found: dict[str, Figure] = {}
    if run.has(run_folder.SPECTRUM):
        found["Wavelets: amplitude by band"] = (lambda: plot.spectrum(open_spectrum(run)), captions.SPECTRUM)
        found["Wavelets: coefficients"] = (
            lambda: plot.coefficients(open_spectrum(run)),
            captions.COEFFICIENTS,
        )
    if run.has(run_folder.CAPTURE):
        chosen = _names(config)[0]
        found |= {
            "Chosen settings: what is kept": (
                lambda: plot.eviction_map(simulated(run, config).retention, policy=chosen),
                captions.EVICTION_MAP,
            ),
            "Chosen settings beside a window": (
                lambda: plot.eviction_maps(simulated(run, config).retention),
                captions.MAPS,
            ),
            "Density": (lambda: plot.density(simulated(run, config).retention), captions.DENSITY),
            "Attention retained": (lambda: plot.mass_retained(simulated(run, config).loss), captions.MASS),
            "Output error": (lambda: plot.output_error(simulated(run, config).loss), captions.ERROR),
            "Memory": (lambda: _memory(run, config), captions.MEMORY),
        }
    return found


def simulated(run: RunFolder, config: TreeKVConfig) -> compare.Comparison:
    """The chosen settings beside a window of the same size, on a few layers of the run's capture."""
    seen, configs = compare.capture(run), _configs(config)
    layers = tuple(compare.few_layers(seen))
    return compare.compare(run, configs, layers, compare.usual_prompt(configs, seen.tokens))


def check(run: RunFolder, config: TreeKVConfig) -> None:
    """Raise what would keep `report` from being made: no capture, or settings for another number of layers."""
    config.per_layer(len(compare.capture(run).full_layers))


def report(run: RunFolder, config: TreeKVConfig) -> str:
    """The one-page report on the chosen settings, as HTML.

    Raises:
        TreeKVError: what `check` raises.
    """
    seen = compare.capture(run)
    found = simulated(run, config)
    text = run.manifest.get("text", {})
    return one_page(
        config,
        title=_names(config)[0],
        model=seen.model,
        load=generate.model_of(seen.model),
        text=str(text.get("title", "a text")),
        tokens=seen.tokens,
        means_words=f"{compare.reading_in_words(int(found.retention.attrs['prompt']))} "
        f"{compare.means_in_words(seen, found)}",
        rows=[_in_words(row) for row in compare.rows(seen, found, CONTEXT, 1, DTYPE)],
        memory_words=f"Memory is that of keys and values at {CONTEXT:,} tokens, one row, {DTYPE}, over "
        f"{len(seen.model_layers)} layers.",
        pictures=[
            (plot.eviction_maps(found.retention), captions.MAPS),
            (plot.output_error(found.loss), captions.ERROR),
            (_memory(run, config), captions.MEMORY),
        ],
    )


def _in_words(row: dict[str, str | float | None]) -> dict[str, str | float | None]:
    per_cent = ("attention retained", "output error")
    return {name: f"{value:.1f} %" if name in per_cent else value for name, value in row.items()}


def _names(config: TreeKVConfig) -> list[str]:
    chosen = wording.policy_title(config.policy)
    size = "" if config.policy == "full" else f" {config.cache_size:,}"
    return [
        f"{chosen}{size}",
        "full cache" if config.policy == "streaming" else f"{wording.policy_title('streaming')}{size}",
    ]


def _configs(config: TreeKVConfig) -> dict[str, TreeKVConfig]:
    other = config.for_policy("full" if config.policy == "streaming" else "streaming")
    return dict(zip(_names(config), (config, other), strict=True))


def _memory(run: RunFolder, config: TreeKVConfig) -> go.Figure:
    return compare.memory_figure(compare.capture(run), {_names(config)[0]: config}, CONTEXT, 1, DTYPE)
