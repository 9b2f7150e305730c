"""What the page Export offers: figures of the run and of the active configuration, and the one-page report."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Final

import plotly.graph_objects as go

import analysis
from analysis import plot
from app.dashboard.actions import compare, losses
from app.dashboard.actions.table import Row, with_losses
from app.dashboard.session.run import open_capture, open_spectrum
from app.dashboard.session.settings import as_by_default, sized_name, with_changes
from app.report.one_page import one_page
from app.runs import folder as run_folder
from app.runs.captured_model import model_to_load
from app.runs.folder import RunFolder
from app.text import captions
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
            "Active configuration: kept tokens": (
                lambda: plot.eviction_map(simulated(run, config).retention, policy=name),
                captions.EVICTION_MAP,
            ),
            "Active configuration beside a window": (
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
    """The active configuration beside a window of the same size, on the layers that Compare has simulated: all of them,
    or a few."""
    captured, configs = open_capture(run), _configs(config)
    prompt = compare.default_prompt(configs, captured.tokens)
    layers = tuple(captured.layers)
    if not compare.is_known(run, configs, layers, prompt):
        layers = tuple(compare.default_layers(captured))
    return compare.simulate(run, configs, layers, prompt)


def check(run: RunFolder, config: TreeKVConfig) -> None:
    """Raise the TreeKVError that would stop `report`: no capture, or budgets for another model."""
    captured = open_capture(run)
    config.per_head(len(captured.full_layers), captured.kv_heads)


def report(run: RunFolder, config: TreeKVConfig) -> str:
    """The one-page report on the active configuration, as HTML.

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
        rows=[_with_percent(row) for row in _rows(run, captured, found)],
        memory_words=f"Memory is that of the keys and values of {len(captured.model_layers)} layers at "
        f"{CONTEXT:,} tokens, batch size 1, {DTYPE}.",
        pictures=[
            (plot.eviction_maps(found.retention), captions.MAPS),
            (plot.output_error(found.loss), captions.ERROR),
            (_memory(run, config), captions.MEMORY),
        ],
    )


def _rows(run: RunFolder, captured: analysis.Capture, found: compare.Comparison) -> list[Row]:
    """The rows of the table on Compare, with the losses that the run keeps."""
    rows = compare.rows(captured, found, CONTEXT, 1, DTYPE)[0]
    known = losses.by_kind(run, int(found.retention.attrs["prompt"]), found.configs)
    return [{name: value for name, value in row.items() if name != "saved"} for row in with_losses(rows, known)]


def _with_percent(row: Row) -> Row:
    forms = {
        "loss above full, predicted": "{:+.3f}",
        "loss above full, measured": "{:+.3f}",
        "attention retained": "{:.1f} %",
        "output error": "{:.1f} %",
        "times smaller": "{:.1f}",
        "tokens kept": "{:,}",
    }
    return {
        name: "" if value is None else forms[name].format(value) if name in forms else value
        for name, value in row.items()
    }


def _names(config: TreeKVConfig) -> list[str]:
    return list(_configs(config))


def _configs(config: TreeKVConfig) -> dict[str, TreeKVConfig]:
    plain = as_by_default(config)
    other = with_changes(plain, policy="full" if config.policy == "streaming" else "streaming")
    return {sized_name(config): config, sized_name(other): other}


def _memory(run: RunFolder, config: TreeKVConfig) -> go.Figure:
    return compare.memory_figure(open_capture(run), {_names(config)[0]: config}, CONTEXT, 1, DTYPE)
