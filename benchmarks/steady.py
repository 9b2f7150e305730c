"""Stream many tokens through a small cache: neither memory nor time per step should grow.

    python benchmarks/steady.py                 # 100,000 decode steps on a tiny random model
    python benchmarks/steady.py --steps 20000

Prints time per step and resident memory for every tenth of the stream; the first and the last tenth are the ones to
compare. The model has random weights, so only time and memory are meaningful.
"""

from __future__ import annotations

import argparse
import time

import torch
from measure import TINY, arguments_of, kilobytes, model_of
from rich.console import Console
from rich.table import Table

from treekv import TreeKVCache, TreeKVConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--cache-size", type=int, default=128)
    arguments = arguments_of(parser)
    torch.set_num_threads(1)
    model = model_of(TINY)
    model.set_attn_implementation("treekv")
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
                f"{kilobytes('VmRSS') / 1024:.1f}",
                f"{cache.nbytes:,}",
            )
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
