"""What the page Compare shows: simulations that are held while they are asked for again, and their numbers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import plotly.graph_objects as go
import streamlit as st
import xarray as xr

import analysis
from analysis import plot
from analysis.memory_size import DTYPES
from app.dashboard.widgets.figure import draw_figure
from app.dashboard.widgets.job_progress import exclusive
from app.runs import folder as run_folder
from app.runs.folder import RunFolder
from app.text import captions, wording
from treekv import TreeKVConfig, policies

__all__ = [
    "DTYPES",
    "PICTURES",
    "Comparison",
    "View",
    "capture",
    "compare",
    "has",
    "limits",
    "memory_figure",
    "reality",
    "rows",
]

STEP: Final = 16  # of the budget, so that prompts divide into blocks
SINKS: Final = 64


@dataclass(frozen=True)
class Comparison:
    """What was found of some settings: the record of what they keep, and what they lose."""

    retention: xr.Dataset
    loss: xr.Dataset
    configs: dict[str, TreeKVConfig]

    def of(self, layers: Sequence[int]) -> Comparison:
        """The same for some of the layers."""
        part = {"layer": list(layers)}
        return Comparison(self.retention.sel(part), self.loss.sel(part), self.configs)


class View(NamedTuple):
    """The part of the pictures to show: a layer, a KV head, positions; None for all."""

    layer: int | None = None
    head: int | None = None
    start: int | None = None
    stop: int | None = None


@dataclass(frozen=True)
class Limits:
    """What the controls of one setting may reach, and which of them its policy has."""

    least: int
    most: int
    step: int
    sinks: int
    recent: int
    protects: bool  # sinks can be chosen
    recents: bool  # recent tokens too
    prefills: bool  # it can treat a prompt in more than one way


def limits(config: TreeKVConfig, tokens: int) -> Limits:
    """For a text of so many tokens; a setting from elsewhere may lie outside and is then shown at the edge."""
    most = max(tokens // STEP * STEP, 2 * STEP)
    recent = max(config.cache_size - config.sink_size, config.recent_size, 1)
    sinks = max(min(SINKS, config.cache_size // 2), config.sink_size, 1)
    return Limits(STEP, most, STEP, sinks, recent, has(config, "sink_size"), has(config, "recent_size"),
                  policies.get(config.policy).evicts_decoding)  # fmt: skip


def has(config: TreeKVConfig, name: str) -> bool:
    """Whether a control means anything to this setting's policy."""
    decodes = policies.get(config.policy).evicts_decoding
    if name == "sink_size":
        return decodes
    if name == "recent_size":
        return decodes and config.policy != "streaming"
    return config.policy != "full"


def capture(run: RunFolder) -> analysis.Capture:
    """The run's capture, held while it does not change. Raises TreeKVError when it is missing or damaged."""
    file = run.file(run_folder.CAPTURE)
    return _capture(str(file), file.stat().st_mtime_ns)


@st.cache_resource(max_entries=2, show_spinner="Reading the capture")
def _capture(path: str, changed: int) -> analysis.Capture:
    return analysis.open(path, "capture")


def compare(run: RunFolder, configs: dict[str, TreeKVConfig], layers: tuple[int, ...], prompt: int) -> Comparison:
    """Simulate on the run's capture those of the settings whose results are not held: after a slider moved, what it
    changed."""
    file = run.file(run_folder.CAPTURE)
    text = (str(file), file.stat().st_mtime_ns, tuple(sorted(layers)), prompt)
    held = {name: _simulated(*text, json.dumps(config.to_dict())) for name, config in configs.items()}
    if not all(held.values()):
        seen = capture(run)
        with exclusive("Simulating", "Waiting for another simulation to end"):
            # There may be fewer by now. Settings that are alike are put in one place, and need one name.
            names = {id(held[name]): name for name in configs if not held[name]}
            missing = {name: configs[name] for name in names.values()}
            if missing:
                retention = analysis.simulate(seen, missing, layers=sorted(layers), prompt=prompt)
                loss = analysis.output_loss(seen, retention)
                for name in missing:
                    held[name] |= {"retention": retention.sel(policy=[name]), "loss": loss.sel(policy=[name])}
    retention = analysis.merge_retention(*(_named(one["retention"], name, configs[name]) for name, one in held.items()))
    loss = xr.concat([one["loss"].assign_coords(policy=[name]) for name, one in held.items()], "policy")
    return Comparison(retention, loss.assign_attrs(configs=retention.attrs["configs"]), dict(configs))


@st.cache_resource(max_entries=48, show_spinner=False)
def _simulated(path: str, changed: int, layers: tuple[int, ...], prompt: int, settings: str) -> dict[str, xr.Dataset]:
    """Where the results of one setting are put, for all sessions. What is there is had without taking a turn."""
    return {}


def _named(result: xr.Dataset, name: str, config: TreeKVConfig) -> xr.Dataset:
    """The result of a setting by the name that it has now."""
    return result.assign_coords(policy=[name]).assign_attrs(configs=json.dumps({name: config.to_dict()}))


def usual_prompt(configs: Mapping[str, TreeKVConfig], tokens: int) -> int:
    """How much of a text to treat as a prompt: none where all settings read it in blocks anyway, which is quick, else
    half, so that what is reduced at a prompt's end is followed by as much decoding."""
    return 0 if all(config.prefill == "stream" for config in configs.values()) else tokens // 2


def few_layers(seen: analysis.Capture) -> list[int]:
    """The middles of the three thirds of the captured layers: the first and the last of a model may be unlike the rest,
    and rank settings otherwise."""
    count = len(seen.layers)
    return sorted({seen.layers[(2 * third + 1) * count // 6] for third in range(3)})


def untouched(configs: Mapping[str, TreeKVConfig], prompt: int) -> list[str]:
    """Those of the settings that act on a prompt only, and find none that is longer than their budget."""
    return [
        name
        for name, config in configs.items()
        if policies.get(config.policy).evicts_prompt
        and not policies.get(config.policy).evicts_decoding
        and prompt <= config.cache_size
    ]


def prompt_in_words(prompt: int) -> str:
    return f"the prompt has {prompt:,} tokens" if prompt else "there is no prompt"


def reading_in_words(prompt: int) -> str:
    """How the text was read in the simulation."""
    if prompt:
        return f"The first {prompt:,} tokens are read as a prompt, the rest one by one."
    return "All of it is read in blocks, or one by one where a setting has none."


def means_in_words(seen: analysis.Capture, found: Comparison) -> str:
    """What the numbers of the table are."""
    layers, query = [int(layer) for layer in found.retention["layer"].values], found.loss["query"].values
    every = len(seen.full_layers)
    named = wording.listed(layers)
    others = "" if len(layers) == every else " Others may rank the settings differently, so ask all before you decide."
    return (
        f"Means over {'layer' if len(layers) == 1 else 'layers'} {named} of {every}.{others} "
        f"Tokens are those kept after the last of {seen.tokens:,}; attention retained and error, against the full "
        f"cache, are means over {len(query)} {'query' if len(query) == 1 else 'queries'} from position "
        f"{int(query[0]):,} on."
    )


def rows(
    seen: analysis.Capture, found: Comparison, length: int, batch: int, dtype: str
) -> list[dict[str, str | float | None]]:
    """One row a setting: what it keeps, what it loses, what it holds."""
    held = analysis.kept_mask(found.retention, int(found.retention.attrs["steps"]) - 1).sum("position")
    columns: dict[str, tuple[xr.DataArray, Callable[[float], float]]] = {
        "tokens kept": (held, round),
        "attention retained": (found.loss["mass"], _percent),
        "output error": (found.loss["error"], _percent),
        "unevenness (Gini)": (analysis.recency_bias(found.retention)["gini"], lambda mean: round(mean, 2)),
    }
    table: dict[str, dict[str, str | float | None]] = {name: {"settings": name} for name in found.configs}
    for column, (values, told) in columns.items():
        means = values.mean([dim for dim in values.dims if dim != "policy"])
        for name, mean in zip(means["policy"].values, means.values.tolist(), strict=True):
            table[str(name)][column] = told(mean)
    for name, config in found.configs.items():
        memory = analysis.cache_bytes(seen, config, length, batch=batch, dtype=dtype)
        table[name]["memory"] = wording.size(memory)
    return list(table.values())


def _percent(share: float) -> float:
    return 100 * share


def memory_figure(
    seen: analysis.Capture, configs: dict[str, TreeKVConfig], length: int, batch: int, dtype: str
) -> go.Figure:
    """Memory over the contexts around the chosen one, beside the full cache."""
    contexts = sorted({512, 2048, 8192, 32768, 131072, length})
    every = {"full cache": TreeKVConfig(policy="full")} | {n: c for n, c in configs.items() if c.policy != "full"}
    return plot.memory(analysis.cache_bytes_by_context(seen, every, contexts, batch=batch, dtype=dtype), context=length)


def _part(found: Comparison, view: View) -> xr.Dataset:
    """The record of the layer and KV head that are chosen."""
    of = {name: [value] for name, value in (("layer", view.layer), ("head", view.head)) if value is not None}
    return found.retention.sel(of)


PICTURES: Final[dict[str, tuple[Callable[[Comparison, View], go.Figure], str]]] = {
    "Maps": (lambda found, view: plot.eviction_maps(found.retention, **view._asdict()), captions.MAPS),
    "Agreement": (
        lambda found, view: plot.agreement(analysis.agreement(_part(found, view))),
        captions.AGREEMENT,
    ),
    "Bias": (lambda found, view: plot.bias(analysis.recency_bias(_part(found, view))), captions.BIAS),
    "Attention retained": (lambda found, view: plot.mass_retained(found.loss), captions.MASS),
    "Output error": (lambda found, view: plot.output_error(found.loss), captions.ERROR),
    "Density": (
        lambda found, view: plot.density(found.retention, start=view.start, stop=view.stop),
        captions.DENSITY,
    ),
}


# What of the sidebar's choice a picture follows, where that is not all of it.
FOLLOWS: Final = {
    "Maps": "",
    "Agreement": "It follows the layer and head at the left, and is about the whole text.",
    "Bias": "It follows the layer and head at the left, and is about the whole text.",
    "Attention retained": "It shows all simulated layers and heads, whatever is chosen at the left.",
    "Output error": "It shows all simulated layers, whatever is chosen at the left.",
    "Density": "It shows all simulated layers and heads, and follows the positions at the left.",
}


def reality() -> None:
    """The simulation of the last generated text laid over its real run, once there is one."""
    real, simulated = st.session_state.get("real_trace"), st.session_state.get("simulated_trace")
    st.subheader("Simulation against reality")
    if real is None or simulated is None:
        st.info("Generate a text first: the page Generate records the real run and simulates the very same text.")
        return
    if not any((record["evicted_at"] >= 0).any() for record in (real, simulated)):
        st.info("In the last generation nothing was evicted, so there is nothing to compare: give a longer prompt.")
        return
    names = [wording.policy_title(str(record["policy"].values[0])) for record in (simulated, real)]
    draw_figure(
        lambda: plot.retention_difference(wording.titled(analysis.merge_retention(simulated, real)), policies=names),
        captions.DIFFERENCE,
        key="reality",
    )
