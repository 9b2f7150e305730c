"""What the page Export offers: figures of the run and of the chosen settings, and the one-page report."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Final

import plotly.graph_objects as go

from analysis import plot
from app.dashboard.actions import compare
from app.dashboard.actions.table import Row
from app.dashboard.session.run import open_capture, open_spectrum
from app.report.one_page import one_page
from app.runs import folder as run_folder
from app.runs.captured_model import model_to_load
from app.runs.folder import RunFolder
from app.text import captions, wording
from treekv import TreeKVConfig

CONTEXT: Final = 32768  # tokens for which memory is reported
DTYPE: Final = "bfloat16"

Figure = tuple[Callable[[], go.Figure], str]  # what draws it, and its caption


def settings_json(config: TreeKVConfig) -> str:
    """The settings file, as `TreeKVConfig.save` writes it."""
    return json.dumps(config.to_dict(), indent=2) + "\n"


def figures(run: RunFolder, config: TreeKVConfig) -> dict[str, Figure]:
    """Figures by name; those drawn from the run's files only where the files exist."""
    found: dict[str, Figure] = {}
    if run.has(run_folder.SPECTRUM):
        found["Wavelets: amplitude by band"] = (lambda: plot.spectrum(open_spectrum(run)), captions.SPECTRUM)
        found["Wavelets: coefficients"] = (lambda: plot.coefficients(open_spectrum(run)), captions.COEFFICIENTS)
    if run.has(run_folder.CAPTURE):
        name = _names(config)[0]
        found |= {
            "Chosen settings: kept tokens": (
                lambda: plot.eviction_map(simulated(run, config).retention, policy=name),
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
    captured, configs = open_capture(run), _configs(config)
    layers = tuple(compare.default_layers(captured))
    return compare.simulate(run, configs, layers, compare.default_prompt(configs, captured.tokens))


def check(run: RunFolder, config: TreeKVConfig) -> None:
    """Raise the TreeKVError that would stop `report`: no capture, or budgets for another model."""
    captured = open_capture(run)
    config.per_head(len(captured.full_layers), captured.kv_heads)


def report(run: RunFolder, config: TreeKVConfig) -> str:
    """The one-page report on the chosen settings, as HTML.

    Raises:
        TreeKVError: what `check` raises.
    """
    captured = open_capture(run)
    found = simulated(run, config)
    text = run.manifest.get("text", {})
    return one_page(
        config,
        title=_names(config)[0],
        model=captured.model,
        load=model_to_load(captured.model),
        text=str(text.get("title", "a text")),
        tokens=captured.tokens,
        means_words=f"{compare.describe_reading(int(found.retention.attrs['prompt']))} "
        f"{compare.describe_means(captured, found)}",
        rows=[_with_percent(row) for row in compare.rows(captured, found, CONTEXT, 1, DTYPE)[0]],
        memory_words=f"Memory is that of the keys and values of {len(captured.model_layers)} layers at "
        f"{CONTEXT:,} tokens, batch size 1, {DTYPE}.",
        pictures=[
            (plot.eviction_maps(found.retention), captions.MAPS),
            (plot.output_error(found.loss), captions.ERROR),
            (_memory(run, config), captions.MEMORY),
        ],
    )


def _with_percent(row: Row) -> Row:
    forms = {
        "attention retained": "{:.1f} %",
        "output error": "{:.1f} %",
        "times smaller": "{:.1f}",
        "tokens kept": "{:,}",
    }
    return {name: forms[name].format(value) if name in forms else value for name, value in row.items()}


def _names(config: TreeKVConfig) -> list[str]:
    size = "" if config.policy == "full" else f" {config.cache_size:,}"
    full, streaming = wording.policy_title("full"), f"{wording.policy_title('streaming')}{size}"
    return [f"{config.title}{size}", full if config.policy == "streaming" else streaming]


def _configs(config: TreeKVConfig) -> dict[str, TreeKVConfig]:
    other = config.for_policy("full" if config.policy == "streaming" else "streaming")
    return dict(zip(_names(config), (config, other), strict=True))


def _memory(run: RunFolder, config: TreeKVConfig) -> go.Figure:
    return compare.memory_figure(open_capture(run), {_names(config)[0]: config}, CONTEXT, 1, DTYPE)
