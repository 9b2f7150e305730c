"""Recommended settings against the paper's defaults at equal budget, on text that was not captured.

    python benchmarks/recommend.py --text novel.txt --text article.txt
    python benchmarks/recommend.py --text novel.txt --questions layers --budgets 128
    python benchmarks/recommend.py --text novel.txt --questions block --prompt 1536

Of each text the first `--tokens` are captured; perplexity is that of as many tokens starting at `--from`, streamed
in blocks, counted from the moment the cache is full; with --prompt the first of these tokens are a prompt and what
comes after it is counted. The standard error is that of the mean difference of log likelihood over pieces of 64
tokens.
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
from analysis.evaluation import stream_perplexity
from analysis.recommendation.recommend import recommend
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
    parser.add_argument("--prompt", type=int, default=0, help="so many tokens are a prompt, the rest comes one by one")
    parser.add_argument("--json", type=Path, help="append one line per comparison to this file")
    arguments = parser.parse_args()

    model, tokenizer = load_model(arguments.model)
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {arguments.model}")
    print(f"questions: {arguments.questions}; text, budget: full | default | recommended (difference of nats +- s.e.)")
    differences = []
    prefill = "once" if arguments.prompt else "stream"
    for path in arguments.text:
        ids = tokenizer(Path(path).read_text(encoding="utf-8"), verbose=False)["input_ids"]
        held_out = ids[arguments.start : arguments.start + arguments.tokens]
        if len(held_out) < arguments.tokens:
            raise SystemExit(f"{path} has {len(ids)} tokens; {arguments.start + arguments.tokens} are needed")
        run = analysis.capture(model, tokenizer, ids[: arguments.tokens], max_tokens=arguments.tokens)
        full = score(model, held_out, TreeKVConfig(policy="full"), arguments.prompt)
        for budget in map(int, arguments.budgets.split(",")):
            start = time.perf_counter()
            choice = recommend(run, budget, questions=arguments.questions.split(","), prefill=prefill)
            seconds = time.perf_counter() - start
            block = None if arguments.prompt else choice.config.block_size
            default = TreeKVConfig(cache_size=budget, prefill=prefill, block_size=block)
            results = {}
            for name, config in (("default", default), ("recommended", choice.config)):
                if config == default and "default" in results:
                    results[name] = results["default"]
                else:
                    results[name] = score(model, held_out, config, arguments.prompt)
            first = max(budget, arguments.prompt)  # counted from here on
            count = (arguments.tokens - first) // PIECE
            change = (results["recommended"] - results["default"])[-count * PIECE :].view(count, PIECE).mean(1)
            error = change.std().item() / math.sqrt(count)
            differences.append(change.mean().item())
            row = {
                "text": Path(path).stem,
                "budget": budget,
                "full": perplexity(full, first),
                "default": perplexity(results["default"], first),
                "recommended": perplexity(results["recommended"], first),
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


def score(model: torch.nn.Module, ids: list[int], config: TreeKVConfig, prompt: int) -> torch.Tensor:
    """Negative log likelihood of every token but the first, float32 [tokens - 1]."""
    cache = TreeKVCache(config, model.config)
    if not prompt:
        return stream_perplexity(model, ids, cache, 64).nll
    tokens = torch.tensor(ids)
    parts = []
    with torch.inference_mode():
        for piece in (tokens[:prompt], *tokens[prompt:-1].split(1)):
            parts.append(model(input_ids=piece[None], past_key_values=cache).logits[0].float())
    return torch.nn.functional.cross_entropy(torch.cat(parts), tokens[1:], reduction="none")


def perplexity(nll: torch.Tensor, first: int) -> float:
    return math.exp(nll[first - 1 :].double().mean().item())


if __name__ == "__main__":
    main()
