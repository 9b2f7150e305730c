"""Decode steps of TreeKV against transformers' own cache, measured in turn in one process.

    python benchmarks/decode.py                    # SmolLM2, all tables
    python benchmarks/decode.py --quick            # fewer steps and lengths, for a look
    python benchmarks/decode.py --model tiny
    python benchmarks/decode.py --memory           # also what the caches take, and a step on top of them
    python benchmarks/decode.py --device cuda --dtype bfloat16

Every comparison alternates single steps (A B A B ...) and prints medians and the median of the ratios of neighbouring
steps, so a machine that drifts disturbs both alike. Nothing here asserts a time.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import transformers
from measure import arguments_of, model_of, raised
from rich.console import Console
from rich.table import Table
from transformers import DynamicCache

from treekv import TreeKVCache, TreeKVConfig


class Step(NamedTuple):
    """What to time, and what to do before the clock starts."""

    prepare: Callable[[], Any]
    run: Callable[[], Any]
    nbytes: Callable[[], int]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--steps", type=int, default=40, help="steps of each side per comparison")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--compile", action="store_true", help="torch.compile the decode step of both sides")
    parser.add_argument("--memory", action="store_true", help="also measure the memory of each side")
    arguments = arguments_of(parser)
    model = model_of(arguments.model, dtype=getattr(torch, arguments.dtype), device=arguments.device)
    steps = 12 if arguments.quick else arguments.steps
    console = Console(width=110)
    console.print(
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"transformers {transformers.__version__}, {arguments.model} {arguments.dtype} on {arguments.device}"
    )
    forward = torch.compile(model) if arguments.compile else model

    table = new_table("TreeKV at capacity c against DynamicCache held at c tokens", "c")
    for batch in (1, 8):
        for capacity in (256, 1024) if arguments.quick else (256, 1024, 4096):
            if batch * capacity > 8192:
                continue
            tree = treekv_step(model, forward, TreeKVConfig(cache_size=capacity), capacity, batch)
            plain = held_step(model, forward, capacity, batch)
            add_row(table, f"{capacity}, batch {batch}", alternate(tree, plain, steps))
    console.print(table)

    table = new_table("TreeKV with c = 512 against the full cache", "tokens")
    for batch in (1, 8):
        for length in (4096,) if arguments.quick else (4096, 8192, 16384):
            if batch * length > 40000:
                continue
            tree = treekv_step(model, forward, TreeKVConfig(cache_size=512), 512, batch)
            plain = held_step(model, forward, length, batch)
            add_row(table, f"{length}, batch {batch}", alternate(tree, plain, steps))
    console.print(table)

    table = new_table("TreeKV with a trace against TreeKV without", "c")
    for capacity in (256, 1024):
        config = TreeKVConfig(cache_size=capacity)
        traced = treekv_step(model, forward, config.replace(trace=True), capacity, 1)
        plain = treekv_step(model, forward, config, capacity, 1)
        add_row(table, f"{capacity}", alternate(traced, plain, 2 * steps))
    console.print(table)

    table = new_table("TreeKV with three capacities for KV heads against one for all", "mean c")
    for capacity in (128, 512):
        for batch in (1, 8):
            config = TreeKVConfig(cache_size=capacity, prefill="stream", block_size=1)
            budgets = three_sizes(model.config.num_hidden_layers, model.config.num_key_value_heads, capacity)
            split = treekv_step(model, forward, config.replace(budgets=budgets), capacity, batch)
            plain = treekv_step(model, forward, config, capacity, batch)
            add_row(table, f"{capacity}, batch {batch}", alternate(split, plain, 2 * steps))
    console.print(table)

    if arguments.memory:
        table = Table("cache", "bytes it says, MB", "a step on top, peak MB", title="Memory", title_justify="left")
        cases = [("treekv", 512), *(("plain", held) for held in (512, 4096, 8192, 16384))]
        for kind, held in cases:
            step = ready(arguments.model, kind, held)
            table.add_row(
                f"{'TreeKV' if kind == 'treekv' else 'DynamicCache'}, {held} tokens",
                f"{step.nbytes() / 1e6:.1f}",
                f"{raised(ready, some_steps, arguments.model, kind, held):.1f}",
            )
        console.print(table)


def treekv_step(model: Any, forward: Any, config: TreeKVConfig, held: int, batch: int) -> Step:
    """One decode step of a cache that is full: it evicts at every step."""
    prepare = partial(model.set_attn_implementation, "treekv")
    prepare()
    cache = TreeKVCache(config, model.config)
    fill(cache, model, held, batch)
    token = torch.full((batch, 1), 42, device=model.device)

    return Step(prepare, lambda: forward(input_ids=token, past_key_values=cache), lambda: cache.nbytes)


def fill(cache: TreeKVCache, model: Any, held: int, batch: int) -> None:
    """Fill a cache with `held` random keys and values, as a prompt of that length would, without running the model."""
    config = model.config
    shape = (batch, config.num_key_value_heads, 1, config.head_dim)
    generator = torch.Generator(model.device).manual_seed(0)
    for layer in cache.layers:
        layer.lazy_initialization(*[torch.empty(shape, device=model.device, dtype=model.dtype)] * 2)
        for part in getattr(layer, "parts", [layer]):  # of heads with capacities of their own
            ledger, rows = part.owner.ledger, part.owner.ledger_rows(part)
            now = held if part is layer else ledger.capacity[0]
            part.reserve(now + 1)
            own = (*part.keys.shape[:2], now, config.head_dim)
            part.keys[:, :, :now] = torch.randn(own, generator=generator, device=model.device, dtype=model.dtype)
            part.values[:, :, :now] = part.keys[:, :, :now]
            ledger.admit_prompt(rows, now, None, torch.rand(own[:3], generator=generator, device=model.device), 1)
            part.tokens_seen = held


def three_sizes(layers: int, heads: int, mean: int) -> list[list[int]]:
    """Three capacities in a seeded order: a third of the heads half of the mean, a third the mean, a third the rest."""
    sizes = [mean // 2, mean, 2 * mean - mean // 2] * (layers * heads // 3)
    sizes += [mean] * (layers * heads - len(sizes))
    order = torch.randperm(len(sizes), generator=torch.Generator().manual_seed(0)).tolist()
    return [[sizes[order[layer * heads + head]] for head in range(heads)] for layer in range(layers)]


def held_step(model: Any, forward: Any, length: int, batch: int) -> Step:
    """One decode step of transformers' DynamicCache at `length` tokens; the new token is dropped again."""
    cache = DynamicCache(config=model.config)
    config = model.config
    shape = (batch, config.num_key_value_heads, length - 1, config.head_dim)
    for number in range(config.num_hidden_layers):
        cache.update(*(torch.randn(shape, device=model.device, dtype=model.dtype) for _ in range(2)), number)
    token = torch.full((batch, 1), 42, device=model.device)

    def step() -> None:
        forward(input_ids=token, past_key_values=cache)
        for layer in cache.layers:
            layer.keys, layer.values = layer.keys[:, :, :-1], layer.values[:, :, :-1]

    def nbytes() -> int:
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)

    return Step(partial(model.set_attn_implementation, "sdpa"), step, nbytes)


def ready(name: str, kind: str, held: int) -> Step:
    """A step of batch 1, made in this process and taken twice, so that what a first step takes is there."""
    model = model_of(name)
    made = treekv_step(model, model, TreeKVConfig(cache_size=held), held, 1) if kind == "treekv" else None
    made = made or held_step(model, model, held, 1)
    for _ in range(2):
        timed(made)
    return made


def some_steps(step: Step) -> None:
    for _ in range(3):
        timed(step)


def alternate(one: Step, other: Step, steps: int) -> tuple[float, float, float]:
    """Median seconds of each and the median ratio of neighbouring steps."""
    for step in (one, other) * 3:
        timed(step)
    pairs = [(timed(one), timed(other)) for _ in range(steps)]
    ratios = [a / b for a, b in pairs]
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs), statistics.median(ratios)


def timed(step: Step) -> float:
    step.prepare()
    synchronize()
    start = time.perf_counter()
    with torch.inference_mode():
        step.run()
    synchronize()
    return time.perf_counter() - start


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def new_table(title: str, column: str) -> Table:
    table = Table(column, "TreeKV ms", "other ms", "time ratio", "speed-up", title=title, title_justify="left")
    return table


def add_row(table: Table, name: str, result: tuple[float, float, float]) -> None:
    one, other, ratio = result
    table.add_row(name, f"{one * 1e3:.1f}", f"{other * 1e3:.1f}", f"{ratio:.3f}", f"{1 / ratio:.2f}")


if __name__ == "__main__":
    main()
