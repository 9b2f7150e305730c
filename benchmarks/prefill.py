"""Read a prompt with compression and with plain transformers, alternately in one process.

    python benchmarks/prefill.py
    python benchmarks/prefill.py --lengths 2048 --rounds 3 --memory
    python benchmarks/prefill.py --model tiny

Prints medians, the median of the ratios of neighbouring runs (by the clock, and in processor time, which other work on
the machine disturbs less), and how far each side raises the memory of a process (each in a fresh process, since a peak
never falls).
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch
from measure import arguments_of, model_of, raised
from rich.console import Console
from rich.table import Table

from treekv import TreeKVCache, TreeKVConfig

#: How the prompt is scored: the paper's blocks, and what coming queries would see.
SCORES: dict[str, dict[str, Any]] = {
    "window": {},
    "future, sum": {"prompt_score": "future"},
    "future, energy": {"prompt_score": "future", "future_reduction": "energy"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--lengths", type=int, nargs="+", default=[2048, 4096, 8192])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", action="store_true", help="also measure the peak memory of each side")
    arguments = arguments_of(parser)
    model = model_of(arguments.model)
    columns = ("tokens", "cache", "prompt score", "TreeKV s", "plain s", "time ratio", "processor ratio")
    table = Table(*columns, title="Prefill", title_justify="left")
    if arguments.memory:
        table.add_column("TreeKV peak MB")
        table.add_column("plain peak MB")
    for length in arguments.lengths:
        configs = [TreeKVConfig(cache_size=length // 16, **options) for options in SCORES.values()]
        rounds = [[timed(model, length, config) for config in (*configs, None)] for _ in range(arguments.rounds)]
        *own, plain = zip(*rounds, strict=True)
        for score, config, times in zip(SCORES, configs, own, strict=True):
            row = [
                str(length),
                str(config.cache_size),
                score,
                f"{statistics.median(own for own, _ in times):.2f}",
                f"{statistics.median(own for own, _ in plain):.2f}",
                *(f"{statistics.median(a[i] / b[i] for a, b in zip(times, plain, strict=True)):.3f}" for i in (0, 1)),
            ]
            if arguments.memory:
                row += [f"{raised(ready, read, arguments.model, length, each):.0f}" for each in (config, None)]
            table.add_row(*row)
    Console(width=110).print(table)


def timed(model: Any, length: int, config: TreeKVConfig | None) -> tuple[float, float]:
    """Seconds to read `length` tokens and score the next one, by the clock and of the processor; without a config by
    transformers' own cache."""
    model.set_attn_implementation("sdpa" if config is None else "treekv")
    cache = None if config is None else TreeKVCache(config, model.config)
    ids = torch.randint(model.config.vocab_size, (1, length), generator=torch.Generator().manual_seed(0))
    start, busy = time.perf_counter(), time.process_time()
    with torch.inference_mode():
        model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return time.perf_counter() - start, time.process_time() - busy


def ready(name: str, length: int, config: TreeKVConfig | None) -> tuple[Any, int, TreeKVConfig | None]:
    model = model_of(name)
    timed(model, 32, None)
    return model, length, config


def read(prepared: tuple[Any, int, TreeKVConfig | None]) -> None:
    timed(*prepared)


if __name__ == "__main__":
    main()
