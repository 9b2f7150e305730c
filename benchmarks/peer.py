"""TreeKV beside kvpress 0.5.5 at its own game, decoding: the cost of a step and the loss of the same texts.

    benchmarks/peer.sh --text texts/wikitext/wikitext-2-test.txt            # makes its environment first
    benchmarks/peer.sh --text ... --only steps

Steps: every cache against a DynamicCache held at its mean length, single steps in turn in one process, as in decode.py;
means, over whole intervals, for kvpress evicts at one step in `interval`.
Loss: `--rows` texts of `--tokens` tokens, token by token. kvpress's cache swings between two evictions; each setting
gets the target size with which it holds at most `--held` tokens after a step, as the others do. Its StreamingLLM
chooses among equal scores without order, so what it takes for the first tokens after an eviction need not be these.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kvpress
import torch
import transformers
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from transformers import DynamicCache

from treekv import TreeKVCache, TreeKVConfig, load_model

PRESSES: dict[str, Callable[[int], Any]] = {
    "StreamingLLM": lambda interval: kvpress.StreamingLLMPress(n_sink=4),
    "SnapKV": lambda interval: kvpress.SnapKVPress(window_size=max(interval // 2, 1)),
    "TOVA": lambda interval: kvpress.TOVAPress(),
}
OURS = ("tree", "streaming", "tova", "snapkv_decode", "h2o")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--only", choices=["steps", "loss"])
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--held", type=int, default=128)
    parser.add_argument("--steps", type=int, default=60)
    arguments = parser.parse_args()
    if arguments.held < 32:
        parser.error(f"--held must be at least 32, twice the interval of 16, got {arguments.held}")
    console = Console(width=110)
    console.print(
        f"kvpress 0.5.5, transformers {transformers.__version__}, torch {torch.__version__}, {arguments.model} "
        f"{arguments.dtype}, {torch.get_num_threads()} threads"
    )
    if arguments.only != "loss":
        console.print(steps(arguments))
    if arguments.only != "steps":
        console.print(losses(arguments))


def _loaded(arguments: Any) -> tuple[Any, Any]:
    return load_model(arguments.model, dtype=arguments.dtype)


def _plain(arguments: Any) -> Any:
    """The model with transformers' own attention, as kvpress expects it."""
    model = _loaded(arguments)[0]
    model.set_attn_implementation("sdpa")
    return model


def _step(model: Any, cache: Any, token: Tensor, position: int) -> Tensor:
    """Logits [rows, vocabulary] after one token, at its true position as kvpress's pipeline gives it."""
    place = torch.tensor([position])
    return model(
        input_ids=token, past_key_values=cache, use_cache=True, cache_position=place, position_ids=place[None]
    ).logits[:, -1]


def steps(arguments: Any) -> Table:
    """The mean of a step and of one of a plain cache of the same mean length, both timed in turn."""
    held, token = 512, torch.tensor([[42]])
    model, plain = _loaded(arguments)[0], _plain(arguments)
    table = Table("cache of at most 512 tokens", "step, ms", "of a plain cache", "ratio", title="Decode steps, batch 1")
    ids = torch.arange(100, 100 + held)[None]

    def add(name: str, run: Callable[[], Any], interval: int = 1) -> None:
        cache, own, other = DynamicCache(), [], []
        length = held - (interval - 1) // 2
        count = interval * max(2, -(-arguments.steps // interval))
        with torch.inference_mode():
            plain(input_ids=ids[:, : length - 1], past_key_values=cache, use_cache=True)
            for number in range(-interval, count):  # the first interval warms up
                start = time.perf_counter()
                run()
                middle = time.perf_counter()
                _step(plain, cache, token, length - 1)
                end = time.perf_counter()
                cache.crop(length - 1)
                if number >= 0:
                    own.append(middle - start)
                    other.append(end - middle)
        ratio = statistics.fmean(own) / statistics.fmean(other)  # means, for some evict at one step in many
        table.add_row(
            name, f"{1e3 * statistics.fmean(own):.1f}", f"{1e3 * statistics.fmean(other):.1f}", f"{ratio:.2f}"
        )

    for policy in ("tree", "streaming"):
        ours = TreeKVCache(TreeKVConfig(policy, held), model.config)
        with torch.inference_mode():
            model(input_ids=ids, past_key_values=ours, use_cache=True)
        add(f"ours, {policy}, evicts at every step", lambda cache=ours: model(input_ids=token, past_key_values=cache))
    for name, make in PRESSES.items():
        for interval in (1, 128):
            if name == "SnapKV" and interval == 1:
                continue  # it looks at a window of more than one query
            pressed, position = _plain(arguments), [held - interval]
            press = kvpress.DecodingPress(make(interval), compression_interval=interval, target_size=held - interval)
            with torch.inference_mode(), press(pressed):
                cache = DynamicCache()
                pressed(input_ids=ids[:, : held - interval], past_key_values=cache, use_cache=True)

                def run(model: Any = pressed, cache: Any = cache, position: list[int] = position) -> None:
                    _step(model, cache, token, position[0])
                    position[0] += 1

                add(f"kvpress, {name}, every {interval}", run, interval)
    return table


def losses(arguments: Any) -> Table:
    """Mean loss over all rows, and what was held at the most."""
    model, tokenizer = _loaded(arguments)
    text = arguments.text.read_text(encoding="utf-8")
    ids = torch.tensor(tokenizer(text, verbose=False)["input_ids"][: arguments.rows * arguments.tokens])
    if len(ids) < arguments.rows * arguments.tokens:
        raise SystemExit(f"the text has {len(ids)} tokens; {arguments.rows * arguments.tokens} are needed")
    ids = ids.view(arguments.rows, arguments.tokens)
    table = Table(
        "cache", "nats per token", "perplexity", "minus ours", "tokens at the peak", title="Loss, token by token"
    )
    held = arguments.held
    reference: Tensor | None = None

    def add(name: str, model: nn.Module, cache: Any) -> None:
        nonlocal reference
        nll, peak = _read(model, cache, ids)
        own = nll.mean(1)
        reference = own if reference is None else reference
        apart = own - reference
        error = apart.std().item() / math.sqrt(len(apart)) if len(apart) > 1 else math.nan
        mean = own.mean().item()
        table.add_row(
            name, f"{mean:.3f}", f"{math.exp(mean):.2f}", f"{apart.mean():+.3f} ± {1.96 * error:.3f}", f"{peak:,}"
        )
        Console(stderr=True).print(name, f"{mean:.4f}", peak)

    config = TreeKVConfig(cache_size=held, prefill="stream", block_size=1)
    for policy in OURS:
        own = config.for_policy(policy)
        if policy == "snapkv_decode":
            own = own.replace(interval=16, recent_size=8)
        add(f"ours, {policy}", model, TreeKVCache(own, model.config))
    add("full cache", model, TreeKVCache(TreeKVConfig("full"), model.config))
    for name, make in PRESSES.items():
        for interval in (1, 16):
            if name == "SnapKV" and interval == 1:
                continue
            press = kvpress.DecodingPress(
                make(interval), compression_interval=interval, target_size=held + 1 - interval
            )
            pressed = _plain(arguments)
            with press(pressed):
                add(f"kvpress, {name}, every {interval}", pressed, DynamicCache())
    return table


def _read(model: Any, cache: Any, ids: Tensor) -> tuple[Tensor, int]:
    """The loss [rows, tokens - 1] of every token given those before it, and the most tokens that a layer held."""
    found, peak = [], 0
    with torch.inference_mode():
        for position in range(ids.shape[1] - 1):
            if isinstance(cache, TreeKVCache):
                logits = model(input_ids=ids[:, position : position + 1], past_key_values=cache, use_cache=True).logits
                logits = logits[:, -1]
                held = cache.kept_tokens
            else:
                logits = _step(model, cache, ids[:, position : position + 1], position)
                held = max(layer.keys.shape[2] for layer in cache.layers)
            peak = max(peak, held)
            found.append(nn.functional.cross_entropy(logits.float(), ids[:, position + 1], reduction="none"))
    return torch.stack(found, dim=1), peak


if __name__ == "__main__":
    main()
