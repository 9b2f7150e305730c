"""Decode steps of policies without attention weights against transformers' own cache: time, and operators that work.

    python benchmarks/without_weights.py                   # SmolLM2, batch 1 and 8
    python benchmarks/without_weights.py --model tiny --capacity 64 --steps 8
    python benchmarks/without_weights.py --policy streaming --profile    # where the time of a step goes, in Python
    python benchmarks/without_weights.py --steps 0                       # count only

Both sides hold the same number of tokens. Steps alternate (A B A B ...); printed are the median of the ratios of
neighbouring steps, and the ratio of the sums, which counts the steps in which a policy with an `interval` evicts. What
is counted are aten operators that have no other operator inside and are no mere view: on a GPU each launches a kernel.
Counts are the mean over as many steps as lie between two evictions. Nothing here asserts a time.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import statistics
from collections import Counter
from typing import Any

import torch
from decode import Step, held_step, timed, treekv_step
from measure import arguments_of, model_of
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from treekv import TreeKVConfig

SETTINGS: dict[str, dict[str, Any]] = {
    **{name: {"policy": name} for name in ("streaming", "tree_left", "random", "lacache", "lagkv", "cur", "keydiff")},
    "similarity": {"policy": "tree", "importance": "similarity"},
    "tree": {"policy": "tree"},  # which needs weights, to compare
}

#: Operators that only describe memory anew, or reserve it.
NO_WORK = {
    f"aten::{name}"
    for name in [
        *("_reshape_alias", "_unsafe_view", "alias", "as_strided", "chunk", "detach", "detach_", "expand", "expand_as"),
        *("empty", "empty_like", "empty_strided", "new_empty", "resize_", "set_", "lift_fresh", "item", "is_nonzero"),
        *("flatten", "narrow", "permute", "reshape", "resolve_conj", "resolve_neg", "result_type", "select", "slice"),
        *("split", "split_with_sizes", "squeeze", "t", "to", "transpose", "unflatten", "unsqueeze", "unsqueeze_"),
        *("view", "view_as", "view_as_complex", "view_as_real"),
    ]
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--capacity", type=int, default=256, help="tokens that both sides hold")
    parser.add_argument("--batch", type=int, action="append", help="1 and 8 by default")
    parser.add_argument("--steps", type=int, default=64, help="steps of each side per comparison")
    parser.add_argument("--policy", action="append", choices=[*SETTINGS], help="all by default")
    parser.add_argument("--positions", action="append", choices=["rank", "original"], help="both by default")
    parser.add_argument("--profile", action="store_true", help="show the Python functions and operators of a step")
    arguments = arguments_of(parser)
    model = model_of(arguments.model, dtype=getattr(torch, arguments.dtype), device=arguments.device)
    console = Console(width=110)
    table = Table("policy", "positions", "batch", "median ratio", "ratio of sums", "operators", "DynamicCache's")
    for batch in arguments.batch or [1, 8]:
        plain = held_step(model, model, arguments.capacity, batch)
        usual = operators(plain, 4)
        for name in arguments.policy or SETTINGS:
            for positions in arguments.positions or ["rank", "original"]:
                config = TreeKVConfig(cache_size=arguments.capacity, positions=positions, **SETTINGS[name])
                step = treekv_step(model, model, config, arguments.capacity, batch)
                timed_ratios = ratios(step, plain, arguments.steps) if arguments.steps else ()
                found = operators(step, max(config.interval, 4))
                counts = [f"{sum(each.values()):,.0f}" for each in (found, usual)]
                shown = [f"{ratio:.3f}" for ratio in timed_ratios] or ["", ""]
                table.add_row(name, positions, str(batch), *shown, *counts)
                if arguments.profile:
                    more = {op: round(found[op] - usual[op]) for op in found | usual}
                    console.print(f"{name}, {positions}, batch {batch}: operators more than DynamicCache's")
                    console.print({op: n for op, n in sorted(more.items(), key=lambda each: -each[1]) if n})
                    show_functions(step)
    console.print(table)


def ratios(one: Step, other: Step, steps: int) -> tuple[float, float]:
    """The median ratio of neighbouring steps, and the ratio of the sums of all."""
    for step in (one, other) * 3:
        timed(step)
    pairs = [(timed(one), timed(other)) for _ in range(steps)]
    return statistics.median(a / b for a, b in pairs), sum(a for a, _ in pairs) / sum(b for _, b in pairs)


def operators(step: Step, steps: int) -> Counter[str]:
    """Operators that work, a step, by name."""
    timed(step)
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        for _ in range(steps):
            timed(step)
    counted: Counter[str] = Counter()
    for event in recorded.events():
        inner = any(child.name.startswith("aten::") and child.name not in NO_WORK for child in event.cpu_children)
        if event.name.startswith("aten::") and event.name not in NO_WORK and not inner:
            counted[event.name] += 1
    return Counter({name: count / steps for name, count in counted.items()})


def show_functions(step: Step, steps: int = 8) -> None:
    """Where Python spends its time in a step, most first."""
    timed(step)
    profiler = cProfile.Profile()
    with profiler:
        for _ in range(steps):
            timed(step)
    pstats.Stats(profiler).sort_stats("tottime").print_stats(25)


if __name__ == "__main__":
    main()
