"""Perplexity of policies, options and block sizes on one text, several streams at once.

    python benchmarks/quality.py --text novel.txt
    python benchmarks/quality.py --text novel.txt --streams 2 --tokens 1024 --only blocks

The text is cut into `--streams` streams of `--tokens` tokens, which go through each cache `--block` tokens at a time at
rank positions. "gap" is how much of the distance between StreamingLLM and the full cache a setting closes.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from analysis.evaluation import StreamResult, stream_perplexity
from treekv import TreeKVCache, TreeKVConfig, load_model, policies, policy_names, policy_title

REFERENCES = ("full", "streaming")  # where the gap ends and where it starts
VARIANTS: dict[str, dict[str, Any]] = {
    "TreeKV, stride 2": {"stride": 2},
    "TreeKV without protection": {"sink_size": 0, "recent_size": 0},
    "H2O, 4 sinks": {"policy": "h2o", "sink_size": 4},
}
POLICIES: dict[str, dict[str, Any]] = {
    policy_title(name): {"policy": name}
    for name in policy_names()
    if name not in REFERENCES and policies.get(name).evicts_decoding
} | VARIANTS
OPTIONS: dict[str, dict[str, Any]] = {
    "scope 4": {"scope": 4},
    "scope 8": {"scope": 8},
    "scope 8, clipped": {"scope": 8, "scope_end": "clipped"},
    "importance contribution": {"importance": "contribution"},
    "importance late": {"importance": "late"},
    "budgets rising": {"budgets": "rising"},
    "budgets falling": {"budgets": "falling"},
    "budgets rising, scope 8": {"budgets": "rising", "scope": 8},
    "original positions": {"positions": "original"},
}
BLOCKS = (1, 4, 16, 64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--skip", type=int, default=0, help="tokens to leave out at the beginning")
    parser.add_argument("--cache-size", type=int, default=128)
    parser.add_argument("--block", type=int, default=16)
    parser.add_argument("--only", choices=["policies", "options", "blocks"])
    arguments = parser.parse_args()
    model, tokenizer = load_model(arguments.model)
    length = arguments.streams * arguments.tokens
    text = arguments.text.read_text(encoding="utf-8")
    ids = torch.tensor(tokenizer(text, verbose=False)["input_ids"][arguments.skip : arguments.skip + length])
    if len(ids) < length:
        parser.error(f"the text has {len(ids)} tokens after the first {arguments.skip}, {length} are needed")
    ids = ids.view(arguments.streams, arguments.tokens)
    base = TreeKVConfig(cache_size=arguments.cache_size, prefill="stream", block_size=arguments.block)

    def run(config: TreeKVConfig, block: int = arguments.block) -> StreamResult:
        return stream_perplexity(model, ids, TreeKVCache(config, model.config), chunk=block)

    def score(result: StreamResult) -> float:
        return result.perplexity_from(arguments.cache_size)

    console = Console(width=100)
    console.print(
        f"{arguments.text.name}: {arguments.streams} streams of {arguments.tokens} tokens, cache of "
        f"{arguments.cache_size}, {arguments.block} tokens at a time; perplexity once the cache is full"
    )
    full = score(run(TreeKVConfig(policy="full")))
    window = score(run(base.replace(policy="streaming")))
    table = Table("setting", "perplexity", "gap")
    table.add_row(policy_title("full"), f"{full:.2f}", "100 %")
    table.add_row(policy_title("streaming"), f"{window:.2f}", "0 %")

    def add(name: str, value: float) -> None:
        table.add_row(name, f"{value:.2f}", f"{(window - value) / (window - full):.0%}")

    for group, settings in (("policies", POLICIES), ("options", OPTIONS)):
        if arguments.only in (None, group):
            for name, changes in settings.items():
                add(name, score(run(base.replace(**changes))))
    if arguments.only in (None, "blocks"):
        for block in BLOCKS:
            add(f"TreeKV, {block} at a time", score(run(base.replace(block_size=block), block)))
    console.print(table)


if __name__ == "__main__":
    main()
