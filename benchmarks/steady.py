"""A very long stream through a small cache: no growth of memory, no slower step.

    python benchmarks/steady.py                 # 100,000 decode steps on a tiny random model
    python benchmarks/steady.py --steps 20000

Prints time per step and resident memory for every tenth of the stream; the first and the last tenth are the ones to
compare. The model has random weights, so only time and memory mean anything.
"""

from __future__ import annotations

import argparse
import os
import time

import torch
from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig, LlamaForCausalLM

from treekv import TreeKVCache, TreeKVConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--cache-size", type=int, default=128)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    shape = LlamaConfig(
        vocab_size=256,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        attn_implementation="treekv",
    )
    model = LlamaForCausalLM(shape).eval()
    cache = TreeKVCache(TreeKVConfig(cache_size=arguments.cache_size), model.config)
    token = torch.ones(1, 1, dtype=torch.long)
    table = Table("steps", "ms per step", "resident MB", "cache bytes", title_justify="left")
    table.title = f"{arguments.steps:,} decode steps, cache of {arguments.cache_size} tokens"
    part = arguments.steps // 10
    with torch.inference_mode():
        for tenth in range(10):
            start = time.perf_counter()
            for _ in range(part):
                logits = model(token, past_key_values=cache).logits
                token = logits[:, -1:].argmax(-1)
            seconds = time.perf_counter() - start
            table.add_row(
                f"{tenth * part:,} - {(tenth + 1) * part:,}",
                f"{seconds / part * 1e3:.3f}",
                f"{resident():.1f}",
                f"{cache.nbytes:,}",
            )
    Console(width=100).print(table)


def resident() -> float:
    """Resident memory of this process in MB (Linux)."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    main()
