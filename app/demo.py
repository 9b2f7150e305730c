"""The stages of the demo: one text through capture, spectrum, simulation, streaming and generation."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
import xarray as xr

import analysis
from analysis.evaluation import StreamResult, stream_perplexity
from app import run_folder
from app.wording import POLICY_TITLES as TITLES
from treekv import TreeKVCache, TreeKVConfig, TreeKVError

# A stage of the work as the front shows it: a name in, a function progress(done, total) out.
Stage = Callable[[str], contextlib.AbstractContextManager[Callable[[int, int], None]]]

CHUNK: Final = 16
SHARE: Final = 16  # the cache holds one in so many tokens of the text
LEAST_TOKENS: Final = 256  # below, a sixteenth leaves no tree region
QUERIES: Final = 16
NEW_TOKENS: Final = 64


@dataclass(frozen=True)
class Analysed:
    """What is known of the text before any policy touches it, and what each would keep."""

    capture: analysis.Capture
    spectrum: xr.Dataset
    trends: xr.Dataset
    retention: xr.Dataset


@dataclass(frozen=True)
class Generated:
    """A continuation of the text: the new tokens as text, and the bytes held at the end."""

    text: str
    cache_bytes: int


def token_ids(tokenizer: Any, text: str, tokens: int) -> torch.Tensor:
    """The first `tokens` tokens of the text, LongTensor [at most tokens].

    Raises:
        TreeKVError: the text is too short for the demo.
    """
    text = text[: tokens * 100]  # a long file need not be split up whole for its first tokens
    ids = tokenizer(text, verbose=False, return_tensors="pt")["input_ids"][0, :tokens]
    if len(ids) < LEAST_TOKENS:
        raise TreeKVError(f"the text has {len(ids)} tokens; the demo needs at least {LEAST_TOKENS}")
    return ids


def settings(tokens: int) -> dict[str, TreeKVConfig]:
    """The settings to compare, by policy; "tree" is the object that is saved and that generation uses."""
    tree = TreeKVConfig(policy="tree", cache_size=tokens // SHARE, prefill="stream", block_size=CHUNK)
    return {policy: tree.replace(policy=policy) for policy in TITLES}


def analyse(model: Any, tokenizer: Any, ids: torch.Tensor, configs: dict[str, TreeKVConfig], stage: Stage) -> Analysed:
    """Capture the text, take its spectrum, test the two claims, and simulate the policies that evict."""
    with stage("Capturing what each token contributes") as progress:
        run = analysis.capture(model, tokenizer, ids, max_tokens=len(ids), queries=QUERIES, progress=progress)
    with stage("Splitting it into Haar wavelet bands") as progress:
        spectrum = analysis.spectrum(run, progress=progress)
        trends = analysis.trends(spectrum)
    with stage("Simulating what each policy keeps") as progress:
        evicting = {policy: config for policy, config in configs.items() if policy != "full"}
        retention = analysis.simulate(run, evicting, progress=progress)
    return Analysed(run, spectrum, trends, retention)


def stream(model: Any, ids: torch.Tensor, configs: dict[str, TreeKVConfig], stage: Stage) -> dict[str, StreamResult]:
    """The text through each cache, `CHUNK` tokens at a time."""
    results = {}
    for policy, config in configs.items():
        with stage(f"Streaming the text through {TITLES[policy]}") as progress:
            cache = TreeKVCache(config, model.config)
            results[policy] = stream_perplexity(model, ids, cache, chunk=CHUNK, progress=progress)
    return results


def generate(
    model: Any, tokenizer: Any, ids: torch.Tensor, configs: dict[str, TreeKVConfig], stage: Stage
) -> dict[str, Generated]:
    """Continue the text greedily by `NEW_TOKENS` tokens, with the full cache and with TreeKV."""
    results = {}
    prompt = ids[None].to(model.device)
    for policy in ("full", "tree"):
        with stage(f"Continuing the text with {TITLES[policy]}") as progress:
            cache = TreeKVCache(configs[policy], model.config)
            with torch.inference_mode():
                output = model.generate(
                    input_ids=prompt,
                    attention_mask=torch.ones_like(prompt),
                    past_key_values=cache,
                    do_sample=False,
                    min_new_tokens=NEW_TOKENS,
                    max_new_tokens=NEW_TOKENS,
                    streamer=_Counter(progress, NEW_TOKENS),
                    pad_token_id=tokenizer.eos_token_id,
                )
            results[policy] = Generated(tokenizer.decode(output[0, prompt.shape[1] :]), cache.nbytes)
    return results


def summary(
    title: str,
    analysed: Analysed,
    configs: dict[str, TreeKVConfig],
    streamed: dict[str, StreamResult],
    generated: dict[str, Generated],
) -> dict[str, Any]:
    """Plain values for `run.json`, `--json` and the report."""
    trends, run = analysed.trends, analysed.capture
    held_from = configs["tree"].cache_size
    return {
        "model": run.model,
        "text": {"title": title, "tokens": run.tokens, "end": "".join(run.token_text[-64:])},
        "claims": {
            "i": trends.attrs["claim_i"],
            "ii": trends.attrs["claim_ii"],
            "first_positions": trends.attrs["first_positions"],
            "last_positions": trends.attrs["last_positions"],
            "rules": trends.attrs["rules"],
            "bands": [_band(trends.sel(band=band)) for band in trends["band"].values],
        },
        "streaming": {
            "chunk": CHUNK,
            "full_from": held_from,
            "caches": [
                {
                    "policy": policy,
                    "title": TITLES[policy],
                    "cache_size": None if policy == "full" else configs[policy].cache_size,
                    "perplexity": result.perplexity,
                    "perplexity_once_full": result.perplexity_from(held_from),
                    "cache_bytes": result.cache_bytes,
                    "tokens_per_second": result.tokens_per_second,
                }
                for policy, result in streamed.items()
            ],
        },
        "generation": {
            "new_tokens": NEW_TOKENS,
            "continuations": [
                {
                    "policy": policy,
                    "title": TITLES[policy],
                    "text": made.text,
                    "cache_bytes": made.cache_bytes,
                }
                for policy, made in generated.items()
            ],
        },
    }


def write(folder: Path, analysed: Analysed, config: TreeKVConfig, contents: dict[str, Any]) -> None:
    """Put the whole run into `folder`; the manifest comes last."""
    from app.report import write_report

    analysed.capture.save(folder / run_folder.CAPTURE)
    analysis.save_spectrum(analysed.spectrum, folder / run_folder.SPECTRUM)
    analysis.save_trends(analysed.trends, folder / run_folder.TRENDS)
    analysis.save_retention(analysed.retention, folder / run_folder.RETENTION)
    config.save(folder / run_folder.SETTINGS)
    write_report(
        folder / run_folder.REPORT,
        contents,
        settings=json.dumps(config.to_dict(), indent=2),
        spectrum=analysed.spectrum,
        retention=analysed.retention,
    )
    run_folder.write_manifest(folder, contents)


def _band(trend: xr.Dataset) -> dict[str, Any]:
    numbers = ("growth", "slope", "slope_low", "slope_high", "rank_correlation", "p_value", "share_growing")
    return {
        "band": str(trend["band"].item()),
        "level": int(trend["level"].item()),
        "claim_i": str(trend["claim_i"].item()),
        **{name: _finite(trend[name].item()) for name in numbers},
    }


def _finite(value: float) -> float | None:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None


class _Counter:
    """What `generate` calls a streamer: told of the prompt, then of every new token."""

    def __init__(self, progress: Callable[[int, int], None], total: int) -> None:
        self.progress, self.total, self.done = progress, total, -1

    def put(self, value: torch.Tensor) -> None:
        self.done += 1
        self.progress(self.done, self.total)

    def end(self) -> None:
        pass
