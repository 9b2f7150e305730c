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
from app.runs import folder as run_folder
from app.text.json_values import without_nan
from treekv import TreeKVConfig, TreeKVError

# Shows one stage of the work: called with its name, it gives the function that reports its progress.
Stage = Callable[[str], contextlib.AbstractContextManager[Progress]]

LEAST_TOKENS: Final = 256  # with fewer, a sixteenth leaves no tree region
QUERIES: Final = 16


@dataclass(frozen=True)
class RunArtifacts:
    """What a run stores: the captured text, its spectrum and trends, and what each policy would keep of it."""

    capture: analysis.Capture
    spectrum: xr.Dataset
    trends: xr.Dataset
    retention: xr.Dataset


def token_ids(tokenizer: Any, text: str, tokens: int) -> torch.Tensor:
    """The first `tokens` tokens of the text, LongTensor [at most tokens].

    Raises:
        TreeKVError: the text is too short.
    """
    text = text[: tokens * 100]  # a long file need not be tokenized completely for its first tokens
    ids = tokenizer(text, verbose=False, return_tensors="pt")["input_ids"][0, :tokens]
    if len(ids) < LEAST_TOKENS:
        raise TreeKVError(f"the text has {len(ids)} tokens; at least {LEAST_TOKENS} are needed")
    return ids


def analyse(
    model: Any,
    tokenizer: Any,
    ids: torch.Tensor,
    configs: Mapping[str, TreeKVConfig],
    stage: Stage,
    layers: Sequence[int] | None = None,
) -> RunArtifacts:
    """Capture the text (all layers or some), take its spectrum, test the two claims, simulate policies that evict."""
    with stage("Capturing what each token contributes") as progress:
        captured = analysis.capture(
            model, tokenizer, ids, max_tokens=len(ids), queries=QUERIES, layers=layers, progress=progress
        )
    with stage("Splitting it into Haar wavelet bands") as progress:
        spectrum = analysis.spectrum(captured, progress=progress)
        trends = analysis.trends(spectrum)
    with stage("Simulating what each policy keeps") as progress:
        evicting = {policy: config for policy, config in configs.items() if policy != "full"}
        retention = analysis.simulate(captured, evicting, progress=progress)
    return RunArtifacts(captured, spectrum, trends, retention)


def manifest_entries(title: str, artifacts: RunArtifacts) -> dict[str, Any]:
    """Plain values for `run.json`: the model, the text and the two claims."""
    trends, captured = artifacts.trends, artifacts.capture
    return {
        "model": captured.model,
        "text": {"title": title, "tokens": captured.tokens, "end": "".join(captured.token_text[-64:])},
        "claims": {
            "i": trends.attrs["claim_i"],
            "ii": trends.attrs["claim_ii"],
            "first_positions": trends.attrs["first_positions"],
            "last_positions": trends.attrs["last_positions"],
            "rules": trends.attrs["rules"],
            "bands": [_band(trends.sel(band=band)) for band in trends["band"].values],
        },
    }


def save(folder: Path, artifacts: RunArtifacts, config: TreeKVConfig) -> None:
    """Write everything that the dashboard needs into `folder`, except the manifest."""
    artifacts.capture.save(folder / run_folder.CAPTURE)
    analysis.save(artifacts.spectrum, folder / run_folder.SPECTRUM)
    analysis.save(artifacts.trends, folder / run_folder.TRENDS)
    analysis.save(artifacts.retention, folder / run_folder.RETENTION)
    config.save(folder / run_folder.SETTINGS)


def _band(trend: xr.Dataset) -> dict[str, Any]:
    numbers = ("growth", "slope", "slope_low", "slope_high", "rank_correlation", "p_value", "share_growing")
    return {
        "band": str(trend["band"].item()),
        "level": int(trend["level"].item()),
        "claim_i": str(trend["claim_i"].item()),
        **without_nan({name: trend[name].item() for name in numbers}),
    }
