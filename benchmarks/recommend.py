"""Recommended settings against the paper's defaults at equal budget, on text that was not captured.

    python benchmarks/recommend.py --text novel.txt --text article.txt
    python benchmarks/recommend.py --text novel.txt --questions layers --budgets 128
    python benchmarks/recommend.py --text novel.txt --questions block --prompt 1536

Of each text the first `--tokens` are captured; perplexity is that of as many tokens starting at `--from`, streamed in
blocks, counted from the moment the cache is full. With --prompt the first of these tokens are a prompt, and the tokens
after it are decoded one by one and counted. The standard error is that of the mean difference of log likelihood over
pieces of 64 tokens.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from pathlib import Path

import torch

import analysis
from analysis.evaluation import StreamResult, stream_perplexity
from treekv import TreeKVCache, TreeKVConfig, load_model

PIECE = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", action="append", required=True, help="a text file; several may be given")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--from", dest="start", type=int, default=4096, help="first token of the held-out part")
    parser.add_argument("--budgets", default="64,128,256")
    parser.add_argument("--questions", default="sinks,scope,recent", help="what may differ from the defaults")
    parser.add_argument("--prompt", type=int, default=0, help="tokens of a prompt; the rest are decoded one by one")
    parser.add_argument("--json", type=Path, help="append one line per comparison to this file")
    arguments = parser.parse_args()

    model, tokenizer = load_model(arguments.model)
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {arguments.model}")
    print(f"questions: {arguments.questions}; text, budget: full | default | recommended (difference of nats +- s.e.)")
    differences = []
    prefill = "once" if arguments.prompt else "stream"
    for path in arguments.text:
        ids = tokenizer(Path(path).read_text(encoding="utf-8"), verbose=False)["input_ids"]
        # After a prompt every token is fed, so the last one needs a successor to be scored by.
        end = arguments.start + arguments.tokens + (1 if arguments.prompt else 0)
        held_out = ids[arguments.start : end]
        if len(ids) < end:
            raise SystemExit(f"{path} has {len(ids)} tokens; {end} are needed")
        captured = analysis.capture(model, tokenizer, ids[: arguments.tokens], max_tokens=arguments.tokens)
        full = score(model, held_out, TreeKVConfig(policy="full"), arguments.prompt)
        for budget in map(int, arguments.budgets.split(",")):
            start = time.perf_counter()
            choice = analysis.recommend(captured, budget, questions=arguments.questions.split(","), prefill=prefill)
            seconds = time.perf_counter() - start
            block = None if arguments.prompt else choice.config.block_size
            default = TreeKVConfig(cache_size=budget, prefill=prefill, block_size=block)
            results = {}
            for name, config in (("default", default), ("recommended", choice.config)):
                if config == default and "default" in results:
                    results[name] = results["default"]
                else:
                    results[name] = score(model, held_out, config, arguments.prompt)
            first = max(budget, arguments.prompt + 1)  # counted from here on
            count = (len(held_out) - first) // PIECE
            difference = results["recommended"].nll - results["default"].nll
            change = difference[-count * PIECE :].view(count, PIECE).mean(1)
            error = change.std().item() / math.sqrt(count)
            differences.append(change.mean().item())
            row = {
                "text": Path(path).stem,
                "budget": budget,
                "full": full.perplexity_from(first),
                "default": results["default"].perplexity_from(first),
                "recommended": results["recommended"].perplexity_from(first),
                "change": change.mean().item(),
                "standard_error": error,
                "simulated_error": [float(choice.reasons["error"][0]), float(choice.reasons["error"].min())],
                "recommend_seconds": seconds,
                "settings": choice.config.to_dict(),
            }
            print(
                f"{row['text']}, {budget}: {row['full']:.2f} | {row['default']:.2f} | {row['recommended']:.2f} "
                f"({row['change']:+.4f} +- {error:.4f}); sinks {choice.config.sink_size}, recent "
                f"{choice.config.recent_size}, scope {choice.config.scope}, budgets "
                f"{choice.config.budgets}, block {choice.config.block_size}; "
                f"{seconds:.0f} s",
                flush=True,
            )
            if arguments.json is not None:
                with arguments.json.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
    print(f"mean change over {len(differences)} comparisons: {sum(differences) / len(differences):+.4f} nats a token")


def score(model: torch.nn.Module, ids: list[int], config: TreeKVConfig, prompt: int) -> StreamResult:
    """Stream a text through a cache, in blocks or after a prompt token by token."""
    return stream_perplexity(model, ids, TreeKVCache(config, model.config), 1 if prompt else 64, prompt=prompt)


if __name__ == "__main__":
    main()
