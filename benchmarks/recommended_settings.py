"""Make the settings that come with TreeKV: recommended budgets for a model, from some texts of different kinds.

    python benchmarks/recommended_settings.py --model smollm2 --budgets 64,128,256,512 --output treekv/recommended \
        --text novels/northangerabbey.txt:20000 --text articles/Academy_Awards.txt --text lib/argparse.py

Of each text `--tokens` tokens are captured, from the given token on. Files are called MODEL-BUDGET.json and say under
"provenance" what they were made from. docs/recommend.md has what they are worth on other texts.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import analysis
from treekv import load_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2", help="an alias; files are named after it")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--text", action="append", required=True, help="a text file, with :START its first token")
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--budgets", default="128", help="mean tokens per layer and KV head, several with commas")
    parser.add_argument("--thorough", action="store_true", help="budgets from simulated curves instead of needs")
    parser.add_argument("--stage", default="stream", choices=("stream", "prompt"))
    parser.add_argument("--predict", action="store_true", help="replay the settings beside others on these texts")
    parser.add_argument("--output", type=Path, default=Path(), help="the folder to write to")
    arguments = parser.parse_args()

    model, tokenizer = load_model(arguments.model, dtype=arguments.dtype)
    arguments.output.mkdir(parents=True, exist_ok=True)
    captures = []
    for text in arguments.text:
        start = time.perf_counter()
        captures.append(capture(model, tokenizer, text, arguments.tokens))
        print(f"{text}: captured in {time.perf_counter() - start:.0f} s", flush=True)
    for budget in map(int, arguments.budgets.split(",")):
        start = time.perf_counter()
        choice = analysis.recommend(
            captures,
            budget,
            thorough=arguments.thorough,
            stage=arguments.stage,
            model=model if arguments.predict or arguments.stage == "prompt" else None,
        )
        stage = "prompt-" if arguments.stage == "prompt" else ""
        file = arguments.output / f"{Path(arguments.model).name}-{stage}{budget}.json"
        choice.config.save(file, choice.provenance | {"texts": [name(text) for text in arguments.text]})
        print(f"{file}: {time.perf_counter() - start:.0f} s", *choice.sentences, sep="\n  ", flush=True)


def capture(model: Any, tokenizer: Any, text: str, tokens: int) -> analysis.Capture:
    """Some tokens of a text file, with gradients."""
    path, _, first = text.partition(":")
    start = int(first or 0)
    ids = tokenizer(Path(path).read_text(encoding="utf-8"), verbose=False)["input_ids"]
    if len(ids) < start + tokens:
        raise SystemExit(f"{path} has {len(ids)} tokens; {start + tokens} are needed")
    return analysis.capture(model, tokenizer, ids[start : start + tokens], max_tokens=tokens, sensitivity=True)


def name(text: str) -> str:
    """A text as the provenance names it: its file without folders, and its first token."""
    path, _, first = text.partition(":")
    return f"{Path(path).name}, from token {int(first or 0):,}"


if __name__ == "__main__":
    main()
