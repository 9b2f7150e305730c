"""Reading a prompt with compression against plain transformers, in turn in one process.

    python benchmarks/prefill.py
    python benchmarks/prefill.py --lengths 2048 --rounds 3

Prints medians, the median of the ratios of neighbouring runs, and how far each side raises the process' memory above
what it held before (a fresh process measures each, since a peak never falls).
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from treekv import TreeKVCache, TreeKVConfig, load_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--lengths", type=int, nargs="+", default=[2048, 4096, 8192])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", action="store_true", help="also measure the peak memory of each side")
    arguments = parser.parse_args()
    model, _ = load_model(arguments.model)
    table = Table("tokens", "cache", "TreeKV s", "plain s", "time ratio", title="Prefill", title_justify="left")
    if arguments.memory:
        table.add_column("TreeKV peak MB")
        table.add_column("plain peak MB")
    for length in arguments.lengths:
        config = TreeKVConfig(cache_size=length // 16)
        pairs = [(timed(model, length, config), timed(model, length, None)) for _ in range(arguments.rounds)]
        row = [
            str(length),
            str(config.cache_size),
            f"{statistics.median(a for a, _ in pairs):.2f}",
            f"{statistics.median(b for _, b in pairs):.2f}",
            f"{statistics.median(a / b for a, b in pairs):.3f}",
        ]
        if arguments.memory:
            row += [f"{peak(arguments.model, length, c):.0f}" for c in (config.cache_size, None)]
        table.add_row(*row)
    Console(width=110).print(table)


def timed(model: Any, length: int, config: TreeKVConfig | None) -> float:
    """Seconds to read `length` tokens and score the next one; without a config by transformers' own cache."""
    model.set_attn_implementation("sdpa" if config is None else "treekv")
    cache = None if config is None else TreeKVCache(config, model.config)
    ids = torch.randint(1000, 20000, (1, length), generator=torch.Generator().manual_seed(0))
    start = time.perf_counter()
    with torch.inference_mode():
        model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return time.perf_counter() - start


def peak(name: str, length: int, cache_size: int | None) -> float:
    """MB by which reading the prompt raises a fresh process' memory."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (name, length, cache_size))


def _peak(name: str, length: int, cache_size: int | None) -> float:
    model, _ = load_model(name)
    timed(model, 32, None)
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak starts again from what is held now
    before = _status("VmHWM")
    timed(model, length, None if cache_size is None else TreeKVConfig(cache_size=cache_size))
    return (_status("VmHWM") - before) / 1024


def _status(field: str) -> int:
    """kB from /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


if __name__ == "__main__":
    main()
