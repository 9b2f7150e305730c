"""Predicted against measured loss of many settings, on several texts.

    python benchmarks/predict.py --text novels/persuasion.txt --text encyclopedia/Alaska.txt --output points.csv
    python benchmarks/predict.py --output points.csv          # the table of what is in the file

Each text's points are appended to the file when they are complete; a text that is in the file is not run again. Per
setting it has the loss above the full cache in nats a token, `measured` by streaming the text through a real cache
(as the settings say, so at rank positions) and predicted by `replay`, with --from-capture also by a replay of what
`analysis.simulate` says on the capture of the full cache; and what is commonly looked at instead: attention retained
(`mass`) and output error.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

import analysis
from treekv import TreeKVConfig, load_model

SIZE = 64  # what most settings keep
NUMBERS = ("replay", "from_capture", "mass", "error")  # from_capture where it was asked for
FIELDS = ("text", "kind", "settings", "cache_size", "measured", *NUMBERS, "full")


def settings() -> dict[str, TreeKVConfig]:
    base = TreeKVConfig(cache_size=SIZE, prefill="stream", block_size=16)
    trees: dict[str, dict[str, Any]] = {
        "tree": {},
        "tree, scope 4": {"scope": 4},
        "tree, scope 8": {"scope": 8},
        "tree, recent 16": {"recent_size": 16},
        "tree, unprotected": {"sink_size": 0, "recent_size": 0},
        "tree, budgets rising": {"budgets": "rising"},
        "tree, budgets falling": {"budgets": "falling"},
    }
    found = {name: base.replace(**changes) for name, changes in trees.items()}
    found |= {policy: base.replace(policy=policy) for policy in ("tree_left", "streaming", "random", "h2o", "tova")}
    found["h2o, 4 sinks"] = base.replace(policy="h2o", sink_size=4)
    found["tova, 4 sinks, recent 28"] = base.replace(policy="tova", sink_size=4, recent_size=28)
    for size in (32, 96, 128):
        found[f"tree, {size}"] = base.replace(cache_size=size)
    found["streaming, 128"] = base.replace(policy="streaming", cache_size=128)
    return found


def points(
    model: Any, tokenizer: Any, ids: torch.Tensor, dtype: str | None, from_capture: bool
) -> dict[str, dict[str, float]]:
    """The numbers of each setting on one text, by name."""
    configs = settings()
    captured = analysis.capture(model, tokenizer, ids, max_tokens=len(ids))
    seconds = {}

    def timed(name: str, work: Callable[[], xr.Dataset]) -> xr.Dataset:
        start = time.perf_counter()
        found = work()
        seconds[name] = time.perf_counter() - start
        return found

    retention = timed("simulation", lambda: analysis.simulate(captured, configs))
    lost = timed("output error", lambda: analysis.output_loss(captured, retention))
    predicted = timed("replay", lambda: analysis.replay(model, captured, configs, dtype=dtype))
    measured = timed("measured", lambda: analysis.measure(model, captured, configs, dtype=dtype))
    each = ", ".join(f"{name} {found / len(configs):.1f}" for name, found in seconds.items())
    print(f"  seconds a setting, {measured.attrs['dtype']}, {torch.get_num_threads()} threads: {each}", flush=True)
    columns = {
        "measured": analysis.extra_loss(measured),
        "replay": analysis.extra_loss(predicted),
        "mass": lost["mass"].mean(("layer", "head", "query")),
        "error": lost["error"].mean(("layer", "query")),
    }
    if from_capture:
        recorded = analysis.replay(model, captured, configs, retention=retention, dtype=dtype)
        columns["from_capture"] = analysis.extra_loss(recorded)
    full = measured["loss"].sel(policy="full").mean().item()
    return {name: {n: float(c.sel(policy=name)) for n, c in columns.items()} | {"full": full} for name in configs}


def spearman(one: np.ndarray, other: np.ndarray) -> float:
    ranks = [values.argsort().argsort() for values in (one, other)]
    return float(np.corrcoef(*ranks)[0, 1])


def agreement(rows: list[dict[str, str]]) -> Mapping[str, tuple[float, float]]:
    """Spearman's rank correlation with what was measured, of all settings and of those that keep `SIZE`."""
    equal = np.array([int(row["cache_size"]) == SIZE for row in rows])
    there = [name for name in NUMBERS if rows[0][name]]
    values = {name: np.array([float(row[name]) for row in rows]) for name in ("measured", *there)}
    values["mass"] = -values["mass"]  # more is better
    return {
        name: (
            spearman(values[name], values["measured"]),
            spearman(values[name][equal], values["measured"][equal]),
        )
        for name in there
    }


def show(path: Path) -> None:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    texts = list(dict.fromkeys(row["text"] for row in rows))
    print(f"Spearman's rank correlation with the measured loss; in brackets among settings that keep {SIZE}")
    found = []
    for text in texts:
        found.append(agreement([row for row in rows if row["text"] == text]))
        words = (f"{name} {every:.2f} ({equal:.2f})" for name, (every, equal) in found[-1].items())
        print(f"  {text}: {', '.join(words)}")
    for name in NUMBERS:
        those = [one[name] for one in found if name in one]
        if those:
            every, equal = np.mean(those, axis=0)
            print(f"mean over {len(those)} texts, {name}: {every:.2f} ({equal:.2f})")
    print("settings: loss above the full cache in nats, mean over texts: measured, replay")
    for name in dict.fromkeys(row["settings"] for row in rows):
        own = [row for row in rows if row["settings"] == name]
        means = (np.mean([float(row[field]) for row in own]) for field in ("measured", "replay"))
        print(f"  {name}: {', '.join(f'{mean:.3f}' for mean in means)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, action="append", default=[], help="its folder's name is its kind")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--skip", type=int, default=0, help="tokens to leave out at the beginning")
    parser.add_argument("--dtype", help="float32 or bfloat16; by default the fastest")
    parser.add_argument("--from-capture", action="store_true", help="a replay of the simulation on the capture too")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    written = set()
    if arguments.output.exists():
        with arguments.output.open(encoding="utf-8", newline="") as file:
            written = {row["text"] for row in csv.DictReader(file)}
    left = [path for path in arguments.text if path.stem not in written]
    model, tokenizer = load_model(arguments.model) if left else (None, None)
    for path in left:
        ids = tokenizer(path.read_text(encoding="utf-8"), verbose=False)["input_ids"]
        ids = torch.tensor(ids[arguments.skip : arguments.skip + arguments.tokens])
        if len(ids) < arguments.tokens:
            parser.error(f"{path.stem} has {len(ids)} tokens after the first {arguments.skip}")
        print(path.stem, flush=True)
        found = points(model, tokenizer, ids, arguments.dtype, arguments.from_capture)
        with arguments.output.open("a", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, FIELDS)
            if not file.tell():
                writer.writeheader()
            for (name, numbers), config in zip(found.items(), settings().values(), strict=True):
                row = {"text": path.stem, "kind": path.parent.name, "settings": name, "cache_size": config.cache_size}
                writer.writerow(row | {name: f"{number:.5f}" for name, number in numbers.items()})
    if arguments.output.exists():
        show(arguments.output)


if __name__ == "__main__":
    main()
