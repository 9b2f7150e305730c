"""Capturing a long text: time over a plain forward pass of the same model, and peak memory.

    python benchmarks/capture.py                      # 4,096 tokens of SmolLM2
    python benchmarks/capture.py --tokens 1024 --rounds 1

A plain pass is transformers' own SDPA attention over the same tokens, with its own cache and without logits. Both are
measured alternately in one run; the targets are a ratio of at most 1.3 and a peak below 3 GB. The peak is that of a
separate process that loads the model and captures once.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import torch

import analysis
from app.runs.sample_text import sample_text
from treekv import load_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--keep", choices=("qkv", "spectrum"), default="qkv")
    parser.add_argument("--memory-only", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    model, tokenizer = load_model(arguments.model)
    ids = tokenizer(sample_text(), verbose=False, return_tensors="pt")["input_ids"][:, : arguments.tokens]

    def captured() -> None:
        take = analysis.capture_spectrum if arguments.keep == "spectrum" else analysis.capture
        take(model, tokenizer, ids[0], max_tokens=arguments.tokens)

    if arguments.memory_only:
        captured()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
        return

    def plain() -> None:
        model.set_attn_implementation("sdpa")
        with torch.inference_mode():
            model.base_model(input_ids=ids, use_cache=True)
        model.set_attn_implementation("treekv")

    times: dict[str, list[float]] = {"plain": [], "capture": []}
    for number in range(arguments.rounds + 1):
        for name, work in (("plain", plain), ("capture", captured)):
            start = time.perf_counter()
            work()
            if number or arguments.rounds == 0:  # the first round warms up
                times[name].append(time.perf_counter() - start)
    options = [f"--tokens={arguments.tokens}", f"--model={arguments.model}", f"--keep={arguments.keep}"]
    child = subprocess.run(
        [sys.executable, __file__, *options, "--memory-only"], capture_output=True, text=True, check=True
    )
    ratios = [a / b for a, b in zip(times["capture"], times["plain"], strict=True)]
    result = {
        "tokens": ids.shape[1],
        "keep": arguments.keep,
        "threads": torch.get_num_threads(),
        "seconds": {name: [round(value, 2) for value in values] for name, values in times.items()},
        "capture over plain": round(statistics.median(ratios), 3),
        "peak memory GB": round(int(child.stdout.split()[-1]) / 1e9, 2),
        "torch": torch.__version__,
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
