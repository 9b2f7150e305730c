"""The first half of the demo, shared with the dashboard: capture a text, take its spectrum, simulate policies."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
import xarray as xr

import analysis
from analysis.progress import Progress
from analysis.units import count
from analysis.wavelets.bands import max_level
from analysis.wavelets.options import WaveletOptions
from app.runs import folder as run_folder
from app.text.json_values import without_nan
from treekv import TreeKVConfig, TreeKVError

# Shows one stage of the work: called with its name, it gives the function that reports its progress.
Stage = Callable[[str], contextlib.AbstractContextManager[Progress]]

LEAST_TOKENS: Final = 256  # with fewer, a sixteenth leaves no tree region
QUERIES: Final = 16
WINDOW: Final = 512  # tokens of a sample of the paper's figure
SAMPLES: Final = 16
LEAST_SAMPLES: Final = 5
TOKENS_FOR_A_SAMPLE: Final = 64  # a short run takes fewer samples, so that it ends soon
MOST_PARAMETERS: Final = 10**9  # of models whose gradients are captured unless asked otherwise


@dataclass(frozen=True)
class RunArtifacts:
    """What a run stores: the captured text, its spectrum and trends, and what each policy would keep of it."""

    capture: analysis.Capture
    spectrum: xr.Dataset
    trends: xr.Dataset  # in the paper's protocol
    beyond: xr.Dataset  # to the last token
    retention: xr.Dataset
    no_gradients: str = ""  # why, where they were not left out on purpose


def token_ids(tokenizer: Any, text: str, tokens: int) -> torch.Tensor:
    """The first `tokens` tokens of the text, LongTensor [at most tokens].

    Raises:
        TreeKVError: the text is too short.
    """
    text = text[: tokens * 100]  # a long file need not be tokenized completely for its first tokens
    ids = tokenizer(text, verbose=False, return_tensors="pt")["input_ids"][0, :tokens]
    if len(ids) < LEAST_TOKENS:
        raise TreeKVError(f"the text has {count(len(ids), 'token')}; at least {LEAST_TOKENS} are needed")
    return ids


def analyse(
    model: Any,
    tokenizer: Any,
    ids: torch.Tensor,
    configs: Mapping[str, TreeKVConfig],
    stage: Stage,
    layers: Sequence[int] | None = None,
    more: torch.Tensor | None = None,
    sensitivity: bool | None = None,
) -> RunArtifacts:
    """Capture the text (all layers or some), take its spectrum, test the two claims, simulate policies that evict.

    With `sensitivity` the gradient of the text's loss is captured too, by one backward pass; None captures it of models
    of at most a billion parameters that can be differentiated.

    `more` are the tokens of the text, at least `ids`, from which the paper's samples are taken: windows of 512, one for
    each 64 of `ids`, from five to sixteen. A text too short for five of them is one sample itself.
    """
    with stage("Capturing what each token contributes") as progress:
        captured, reason = _capture(model, tokenizer, ids, layers, sensitivity, progress)
    with stage("Splitting it into Haar wavelet bands") as progress:
        spectrum = analysis.spectrum(captured, progress=progress)
    more = ids if more is None else more
    with stage("Testing the paper's claims") as progress:
        wanted = min(max(len(ids) // TOKENS_FOR_A_SAMPLE, LEAST_SAMPLES), SAMPLES)
        samples = min(len(more) // WINDOW, wanted)
        if samples >= LEAST_SAMPLES:
            windows = analysis.paper.figure2(
                model, None, [more], WINDOW, samples, layers=layers, batch=4, progress=progress
            )
        trends = analysis.trends(windows if samples >= LEAST_SAMPLES else spectrum)
        apart = analysis.spectrum(captured, level=_deep_level(len(ids)), sinks="separate")
        beyond = analysis.trends(apart, protocol="to the last token")
    with stage("Simulating what each policy keeps") as progress:
        evicting = {policy: config for policy, config in configs.items() if policy != "full"}
        retention = analysis.simulate(captured, evicting, progress=progress)
    return RunArtifacts(captured, spectrum, trends, beyond, retention, reason)


def _capture(
    model: Any,
    tokenizer: Any,
    ids: torch.Tensor,
    layers: Sequence[int] | None,
    sensitivity: bool | None,
    progress: Progress,
) -> tuple[analysis.Capture, str]:
    """The capture, and the reason if it has no gradients although they were not left out on request."""
    request: dict[str, Any] = {"max_tokens": len(ids), "queries": QUERIES, "layers": layers, "progress": progress}
    reason = ""
    if sensitivity is None:
        small = sum(parameter.numel() for parameter in model.parameters()) <= MOST_PARAMETERS
        reason = "" if small else f"the model has more than {MOST_PARAMETERS:,} parameters"
    if sensitivity is not False and not reason:
        try:
            return analysis.capture(model, tokenizer, ids, **request, sensitivity=True), ""
        except TreeKVError as error:
            if sensitivity:
                raise
            reason = str(error)
    return analysis.capture(model, tokenizer, ids, **request), reason


def manifest_entries(title: str, artifacts: RunArtifacts) -> dict[str, Any]:
    """Plain values for `run.json`: the model, the text and the two claims."""
    trends, captured = artifacts.trends, artifacts.capture
    return {
        "model": captured.model,
        "text": {"title": title, "tokens": captured.tokens, "end": "".join(captured.token_text[-64:])},
        "claims": {
            "i": trends.attrs["claim_i"],
            "ii": trends.attrs["claim_ii"],
            **_claims(trends),
            "beyond": _claims(artifacts.beyond),
        },
        **({"no_gradients": artifacts.no_gradients} if artifacts.no_gradients else {}),
    }


def save(folder: Path, artifacts: RunArtifacts, config: TreeKVConfig) -> None:
    """Write everything that the dashboard needs into `folder`, except the manifest."""
    artifacts.capture.save(folder / run_folder.CAPTURE)
    analysis.save(artifacts.spectrum, folder / run_folder.SPECTRUM)
    analysis.save(artifacts.trends, folder / run_folder.TRENDS)
    analysis.save(artifacts.beyond, folder / run_folder.BEYOND)
    analysis.save(artifacts.retention, folder / run_folder.RETENTION)
    config.save(folder / run_folder.SETTINGS)


def _deep_level(tokens: int) -> int:
    """8, or the deepest level that the first of the observed queries allows without the sinks."""
    return min(8, max_level(tokens - QUERIES - WaveletOptions.sink_count + 1))


def _claims(trends: xr.Dataset) -> dict[str, Any]:
    """The attributes with verdicts, and the numbers of each band."""
    left_out = ("format", "format_version", "model")
    attrs = {
        name: value for name, value in trends.attrs.items() if name not in left_out and not name.endswith("_version")
    }
    return {**without_nan(attrs), "bands": [_band(trends.sel(band=band)) for band in trends["band"].values]}


def _band(trend: xr.Dataset) -> dict[str, Any]:
    numbers = [str(name) for name, value in trend.data_vars.items() if not value.ndim and name != "claim_i"]
    return {
        "band": str(trend["band"].item()),
        "level": int(trend["level"].item()),
        "claim_i": str(trend["claim_i"].item()),
        **without_nan({name: trend[name].item() for name in numbers}),
    }
