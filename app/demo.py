"""The stages of the demo: one text through capture, spectrum, simulation, streaming and generation."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from analysis.evaluation import StreamResult, stream_perplexity
from app.runs import folder as run_folder
from app.runs.pipeline import RunArtifacts, Stage, manifest_entries, save
from app.text.wording import POLICY_TITLES as TITLES
from treekv import TreeKVCache, TreeKVConfig

CHUNK: Final = 16
SHARE: Final = 16  # the cache holds one in so many tokens of the text
NEW_TOKENS: Final = 64


@dataclass(frozen=True)
class Generated:
    """A continuation of the text: the new tokens as text, and the bytes held at the end."""

    text: str
    cache_bytes: int


def settings(tokens: int) -> dict[str, TreeKVConfig]:
    """The settings to compare, by policy; "tree" is the object that is saved and that generation uses."""
    tree = TreeKVConfig(policy="tree", cache_size=tokens // SHARE, prefill="stream", block_size=CHUNK)
    return {policy: tree.replace(policy=policy) for policy in TITLES}


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
    artifacts: RunArtifacts,
    configs: dict[str, TreeKVConfig],
    streamed: dict[str, StreamResult],
    generated: dict[str, Generated],
) -> dict[str, Any]:
    """Plain values for `run.json`, `--json` and the report."""
    held_from = configs["tree"].cache_size
    return {
        **manifest_entries(title, artifacts),
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


def write(folder: Path, artifacts: RunArtifacts, config: TreeKVConfig, contents: dict[str, Any]) -> None:
    """Put the whole run into `folder`; the manifest comes last."""
    from app.report import write_report

    save(folder, artifacts, config)
    write_report(
        folder / run_folder.REPORT,
        contents,
        settings=json.dumps(config.to_dict(), indent=2),
        spectrum=artifacts.spectrum,
        retention=artifacts.retention,
    )
    run_folder.write_manifest(folder, contents)


class _Counter:
    """What `generate` calls a streamer: told of the prompt, then of every new token."""

    def __init__(self, progress: Callable[[int, int], None], total: int) -> None:
        self.progress, self.total, self.done = progress, total, -1

    def put(self, value: torch.Tensor) -> None:
        self.done += 1
        self.progress(self.done, self.total)

    def end(self) -> None:
        pass
