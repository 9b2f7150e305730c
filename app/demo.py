"""The stages of the demo: one text through capture, spectrum, simulation, streaming and generation."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch

from analysis.evaluation import StreamResult, stream_perplexity
from app import generation
from app.runs import folder as run_folder
from app.runs.pipeline import Progress, RunArtifacts, Stage, manifest_entries, save
from app.text.wording import policy_title
from treekv import TreeKVCache, TreeKVConfig, shipped

POLICIES: Final = ("full", "tree", "streaming")
RECOMMENDED: Final = "recommended"
CHUNK: Final = 16  # tokens per step of streaming
SHARE: Final = 16  # the cache keeps one in so many tokens of the text
NEW_TOKENS: Final = 64


@dataclass(frozen=True)
class Generated:
    """A continuation of the text: the new tokens as text, and the size of the cache at the end."""

    text: str
    cache_bytes: int


def settings(tokens: int) -> dict[str, TreeKVConfig]:
    """The settings to compare, by policy; those of "tree" are saved and used for generation."""
    tree = TreeKVConfig(policy="tree", cache_size=tokens // SHARE, prefill="stream", block_size=CHUNK)
    return {policy: tree.replace(policy=policy) for policy in POLICIES}


def recommended(alias: str, tokens: int) -> dict[str, TreeKVConfig]:
    """The settings of this size that come with TreeKV for a model, to stream beside the others; none for most."""
    name = f"{alias}-{tokens // SHARE}"
    if name not in shipped.names():
        return {}
    return {RECOMMENDED: TreeKVConfig.load(name).replace(prefill="stream", block_size=CHUNK)}


def title(name: str) -> str:
    """How tables and progress call the settings of this name."""
    return "TreeKV, recommended" if name == RECOMMENDED else policy_title(name)


def stream(model: Any, ids: torch.Tensor, configs: dict[str, TreeKVConfig], stage: Stage) -> dict[str, StreamResult]:
    """Stream the text through each cache, `CHUNK` tokens at a time."""
    results = {}
    for policy, config in configs.items():
        with stage(f"Streaming the text through {title(policy)}") as progress:
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
        with stage(f"Continuing the text with {policy_title(policy)}") as progress:
            result, _ = generation.generate(
                model,
                tokenizer,
                prompt,
                configs[policy],
                NEW_TOKENS,
                least=NEW_TOKENS,
                on_token=partial(_report, progress),
            )
            if result.stopped:
                raise KeyboardInterrupt
            results[policy] = Generated(tokenizer.decode(result.token_ids), result.cache_bytes)
    return results


def _report(progress: Progress, pace: generation.Pace) -> None:
    progress(pace.tokens, NEW_TOKENS)


def summary(
    text: str,
    artifacts: RunArtifacts,
    configs: dict[str, TreeKVConfig],
    streamed: dict[str, StreamResult],
    generated: dict[str, Generated],
    dtype: str = "",
) -> dict[str, Any]:
    """Plain values for `run.json`, `--json` and the report."""
    full_from = configs["tree"].cache_size
    return {
        **manifest_entries(text, artifacts),
        "streaming": {
            "chunk": CHUNK,
            "full_from": full_from,
            "dtype": dtype,
            "caches": [
                {
                    "policy": policy,
                    "title": title(policy),
                    "cache_size": None if policy == "full" else configs[policy].cache_size,
                    "perplexity": result.perplexity,
                    "perplexity_once_full": result.perplexity_from(full_from),
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
                    "title": policy_title(policy),
                    "text": made.text,
                    "cache_bytes": made.cache_bytes,
                }
                for policy, made in generated.items()
            ],
        },
    }


def write(folder: Path, artifacts: RunArtifacts, config: TreeKVConfig, contents: dict[str, Any]) -> None:
    """Write the whole run into `folder`, the manifest last."""
    from app.report.run_report import write_report

    save(folder, artifacts, config)
    write_report(
        folder / run_folder.REPORT,
        contents,
        settings=json.dumps(config.to_dict(), indent=2),
        spectrum=artifacts.spectrum,
        retention=artifacts.retention,
    )
    run_folder.write_manifest(folder, contents)
