"""The simulations behind the page Compare, cached for all sessions, with their table and figures."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple

import numpy as np
import plotly.graph_objects as go
import streamlit as st
import xarray as xr

import analysis
from analysis import plot
from analysis.retention.agreement import agreement_over_time
from app.dashboard.actions import table
from app.dashboard.session import jobs
from app.dashboard.session.keys import REAL_TRACE, SIMULATED_TRACE
from app.dashboard.session.run import open_capture
from app.dashboard.widgets.figure import draw_figure
from app.dashboard.widgets.job_progress import exclusive
from app.runs import folder as run_folder
from app.runs.folder import RunFolder
from app.text import captions, wording
from treekv import TreeKVConfig, policies


@dataclass(frozen=True)
class Comparison:
    """Several settings simulated on one text.

    Attributes:
        retention: what each keeps, as `analysis.simulate` gives it.
        loss: what each loses, as `analysis.output_loss` gives it.
        configs: the settings by name.
    """

    retention: xr.Dataset
    loss: xr.Dataset
    configs: dict[str, TreeKVConfig]

    def of(self, layers: Sequence[int]) -> Comparison:
        """The same for some of the layers."""
        part = {"layer": list(layers)}
        return Comparison(self.retention.sel(part), self.loss.sel(part), self.configs)


class View(NamedTuple):
    """The part to show in figures: a layer, a KV head, positions; None for all."""

    layer: int | None = None
    head: int | None = None
    start: int | None = None
    stop: int | None = None


def simulate(run: RunFolder, configs: dict[str, TreeKVConfig], layers: tuple[int, ...], prompt: int) -> Comparison:
    """Simulate on the run's capture, but only the settings whose results are not cached yet."""
    file = run.file(run_folder.CAPTURE)
    text = (str(file), file.stat().st_mtime_ns, tuple(sorted(layers)), prompt)
    results = {name: _simulated(*text, json.dumps(config.to_dict())) for name, config in configs.items()}
    if not all(results.values()):
        captured = open_capture(run)
        with exclusive("Simulating", "Waiting for another simulation to end"):
            # Another session may have simulated some meanwhile. Equal settings share one entry and need one name.
            names = {id(results[name]): name for name in configs if not results[name]}
            missing = {name: configs[name] for name in names.values()}
            if missing:
                retention = analysis.simulate(captured, missing, layers=sorted(layers), prompt=prompt)
                loss = analysis.output_loss(captured, retention)
                for name in missing:
                    results[name] |= {"retention": retention.sel(policy=[name]), "loss": loss.sel(policy=[name])}
    retention = analysis.merge_retention(
        *(_named(one["retention"], name, configs[name]) for name, one in results.items())
    )
    loss = xr.concat([one["loss"].assign_coords(policy=[name]) for name, one in results.items()], "policy")
    return Comparison(retention, loss.assign_attrs(configs=retention.attrs["configs"]), dict(configs))


def most_costly(run: RunFolder, captured: analysis.Capture, found: Comparison, name: str, prompt: int) -> list[str]:
    """The most costly evictions of one setting in words, in the simulated layers; none without gradients."""
    if not captured.has_sensitivity:
        return []
    file, layers = run.file(run_folder.CAPTURE), [int(layer) for layer in found.retention["layer"].values]
    settings = json.dumps(found.configs[name].to_dict())
    known = _most_costly(str(file), file.stat().st_mtime_ns, tuple(layers), prompt, settings)
    if "sentences" not in known:
        retention = found.retention.sel(policy=[name])
        with exclusive("Looking for the most costly evictions", "Waiting for a simulation to end"):
            known["sentences"] = analysis.most_costly(captured, retention, analysis.regret(captured, retention), name)
    return known["sentences"]


def is_known(run: RunFolder, configs: Mapping[str, TreeKVConfig], layers: Sequence[int], prompt: int) -> bool:
    """Whether `simulate` has the results for these layers already."""
    file = run.file(run_folder.CAPTURE)
    text = (str(file), file.stat().st_mtime_ns, tuple(sorted(layers)), prompt)
    return all(_simulated(*text, json.dumps(config.to_dict())) for config in configs.values())


def ask(run: RunFolder, configs: Mapping[str, TreeKVConfig], layers: Sequence[int], prompt: int) -> jobs.Job[None]:
    """Start a job that simulates all these layers; `simulate` has the results when it has ended."""
    title = f"Simulating {len(layers)} layers"
    return jobs.submit(jobs.owner(), title, partial(_work, run=run, configs=configs, layers=layers, prompt=prompt))


def _work(
    job: jobs.Job[None], run: RunFolder, configs: Mapping[str, TreeKVConfig], layers: Sequence[int], prompt: int
) -> None:
    captured = open_capture(run)
    file = run.file(run_folder.CAPTURE)
    text = (str(file), file.stat().st_mtime_ns, tuple(sorted(layers)), prompt)
    for number, (name, config) in enumerate(configs.items()):
        entry = _simulated(*text, json.dumps(config.to_dict()))
        if entry:
            continue
        words = f"{name}, {number + 1} of {len(configs)}"
        report = partial(job.step, text=words)
        retention = analysis.simulate(captured, {name: config}, layers=sorted(layers), prompt=prompt, progress=report)
        loss = analysis.output_loss(captured, retention, progress=report)
        entry |= {"retention": retention, "loss": loss}


@st.cache_resource(max_entries=48, show_spinner=False)
def _simulated(path: str, changed: int, layers: tuple[int, ...], prompt: int, settings: str) -> dict[str, xr.Dataset]:
    """The entry for one setting, shared by all sessions: empty until `simulate` fills it."""
    return {}


@st.cache_resource(max_entries=48, show_spinner=False)
def _most_costly(path: str, changed: int, layers: tuple[int, ...], prompt: int, settings: str) -> dict[str, list[str]]:
    """The entry for one setting, shared by all sessions: empty until `most_costly` fills it."""
    return {}


def _named(result: xr.Dataset, name: str, config: TreeKVConfig) -> xr.Dataset:
    """The result of a setting under the name that it has now."""
    return result.assign_coords(policy=[name]).assign_attrs(configs=json.dumps({name: config.to_dict()}))


def default_prompt(configs: Mapping[str, TreeKVConfig], tokens: int) -> int:
    """How many tokens of the text are the prompt by default.

    None where all settings read a prompt in blocks, which is fast. Otherwise half, so that a prompt that is reduced
    at its end is followed by as many decoding steps.
    """
    return 0 if all(config.prefill == "stream" for config in configs.values()) else tokens // 2


def default_layers(captured: analysis.Capture) -> list[int]:
    """A few layers to begin with, see `few_of`."""
    return few_of(captured.layers)


def few_of(layers: Sequence[int]) -> list[int]:
    """The middle layer of each third: the first and last layers of a model can rank settings differently."""
    return sorted({layers[(2 * third + 1) * len(layers) // 6] for third in range(3)})


def without_eviction(configs: Mapping[str, TreeKVConfig], prompt: int) -> list[str]:
    """Names of the settings that evict nothing: they only reduce prompts, and this one fits their budget."""
    return [
        name
        for name, config in configs.items()
        if policies.get(config.policy).evicts_prompt
        and not policies.get(config.policy).evicts_after(config)
        and prompt <= config.cache_size
    ]


def describe_prompt(prompt: int) -> str:
    return f"the prompt has {prompt:,} tokens" if prompt else "there is no prompt"


def describe_reading(prompt: int) -> str:
    """How the simulation reads the text."""
    if prompt:
        return f"The first {prompt:,} tokens are read as a prompt, the rest one by one."
    return "The whole text is read in blocks, or one token at a time by settings without blocks."


def describe_means(captured: analysis.Capture, found: Comparison) -> str:
    """What the numbers of the table are means over."""
    layers, query = [int(layer) for layer in found.retention["layer"].values], found.loss["query"].values
    every = len(captured.full_layers)
    named = wording.listed(layers) if len(layers) < every else f"all {every}"
    where = (
        f"{'layer' if len(layers) == 1 else 'layers'} {named} of {every}" if len(layers) < every else f"{named} layers"
    )
    others = ""
    if len(layers) < every:
        others = " Other layers may rank the settings differently."
    return (
        f"Means over {where}.{others} "
        f"Tokens kept are counted after all {captured.tokens:,} tokens; attention retained and output error, relative "
        f"to the full cache, are means over {len(query)} {'query' if len(query) == 1 else 'queries'} from position "
        f"{int(query[0]):,} on."
    )


def rows(
    captured: analysis.Capture, found: Comparison, length: int, batch: int, dtype: str
) -> tuple[list[table.Row], dict[str, int]]:
    """Rows of `actions.table` and bytes by name: what each setting keeps and loses, and the memory of `batch` contexts
    of `length` tokens."""
    compared = analysis.compare(
        captured, found.configs, retention=found.retention, lost=found.loss, tokens=length, batch=batch, dtype=dtype
    )
    own = {
        name: {
            "tokens kept": tokens_kept(captured, found, name, row["kept"].item()),
            "attention retained": 100 * row["mass"].item(),
            "output error": 100 * row["error"].item(),
            "unevenness (Gini)": round(row["gini"].item(), 2),
            "bytes": row["bytes"].item(),
        }
        for name, row in ((name, compared.sel(policy=name)) for name in found.configs)
    }
    return table.rows(captured, own, length, batch, dtype)


def tokens_kept(captured: analysis.Capture, found: Comparison, name: str, simulated: float) -> int:
    """The mean over all layers and KV heads of the model.

    `simulated` is the mean over those of `found`. Settings whose layers or heads differ can have another one over the
    rest of the model: where the simulated heads are as full as their budgets, the budgets of all say it.
    """
    layers = captured.full_layers
    budgets = [
        [min(one.cache_size, captured.tokens) for one in heads]
        for heads in found.configs[name].per_head(len(layers), captured.kv_heads)
    ]
    here = [budgets[layers.index(int(layer))] for layer in found.retention["layer"].values]
    full = np.isclose(simulated, np.mean(here)) and found.configs[name].policy != "full"
    return round(float(np.mean(budgets)) if full else simulated)


def memory_figure(
    captured: analysis.Capture, configs: dict[str, TreeKVConfig], length: int, batch: int, dtype: str
) -> go.Figure:
    """Memory at several contexts, the chosen one among them, beside the full cache."""
    contexts = sorted({512, 2048, 8192, 32768, 131072, length})
    every = {"full cache": TreeKVConfig(policy="full")} | {n: c for n, c in configs.items() if c.policy != "full"}
    return plot.memory(
        analysis.cache_bytes_by_context(captured, every, contexts, batch=batch, dtype=dtype), context=length
    )


class Picture(NamedTuple):
    """A figure of a comparison: what draws it, its caption, and which of the sidebar's choices it follows."""

    draw: Callable[[Comparison, View], go.Figure]
    caption: str
    follows: str = ""
    of_view: bool = False  # whether it draws the sidebar's layer alone


def _in_view(found: Comparison, view: View) -> xr.Dataset:
    """The retention record of the layer and KV head in view."""
    of = {name: [value] for name, value in (("layer", view.layer), ("head", view.head)) if value is not None}
    return found.retention.sel(of)


_LAYER_AND_HEAD: Final = "It follows the layer and head in the sidebar and covers the whole text."
PICTURES: Final = {
    "Maps": Picture(
        lambda found, view: plot.eviction_maps(found.retention, **view._asdict()), captions.MAPS, of_view=True
    ),
    "Agreement": Picture(
        lambda found, view: plot.agreement(analysis.agreement(_in_view(found, view))),
        captions.AGREEMENT,
        _LAYER_AND_HEAD,
        of_view=True,
    ),
    "Bias": Picture(
        lambda found, view: plot.bias(analysis.recency_bias(_in_view(found, view))),
        captions.BIAS,
        _LAYER_AND_HEAD,
        of_view=True,
    ),
    "Attention retained": Picture(
        lambda found, view: plot.mass_retained(found.loss),
        captions.MASS,
        "It shows all simulated layers and heads, whatever the sidebar selects.",
    ),
    "Output error": Picture(
        lambda found, view: plot.output_error(found.loss),
        captions.ERROR,
        "It shows all simulated layers, whatever the sidebar selects.",
    ),
    "Density": Picture(
        lambda found, view: plot.density(found.retention, start=view.start, stop=view.stop),
        captions.DENSITY,
        "It shows all simulated layers and heads, and follows the positions in the sidebar.",
    ),
}


def draw_reality_check() -> None:
    """The simulation of the last generated text, laid over its real run once there is one."""
    real, simulated = st.session_state.get(REAL_TRACE), st.session_state.get(SIMULATED_TRACE)
    st.subheader("Compare the simulation with the real run")
    if real is None or simulated is None:
        st.info("Generate a text first: the page Generate records the real run and simulates exactly the same text.")
        return
    if not any((record["evicted_at"] >= 0).any() for record in (real, simulated)):
        st.info("The last generation evicted nothing, so there is nothing to compare. Use a longer prompt.")
        return
    names = [wording.policy_title(str(record["policy"].values[0])) for record in (simulated, real)]
    both = wording.titled(analysis.merge_retention(simulated, real))
    shared = agreement_over_time(both, names)
    if shared == 1:
        st.markdown("The simulation and the real run **never differ**, at any step, in any layer or head.")
        return
    last = analysis.agreement(both).sel(policy=names[0], other=names[1])
    st.markdown(
        f"After the last of {int(both.attrs['steps']):,} steps the simulation shares "
        f"**{100 * float(last.mean()):.1f} %** of what either keeps with the real run, over all layers and heads; over "
        f"all steps, also those before the first eviction, {100 * shared:.1f} %."
    )
    draw_figure(lambda: plot.retention_difference(both, policies=names), captions.DIFFERENCE, key="reality")
