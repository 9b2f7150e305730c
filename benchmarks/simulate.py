"""Time of simulating policies on one capture, and how close the simulation comes to real runs.

    python benchmarks/simulate.py                          # 4,096 tokens of SmolLM2, all layers
    python benchmarks/simulate.py --tokens 2048 --cache-size 256 --layers 0,14,29 --policies tree,streaming,h2o
    python benchmarks/simulate.py --closeness --tokens 1024 --cache-size 128 --text novel.txt
    python benchmarks/simulate.py --closeness --policies tree --tokens 1024 --cache-size 128 --text novel.txt \
        --figure docs/simulation.svg

The ratios are against the time of the model's own forward pass over the same tokens in the same process.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import time
from pathlib import Path
from unittest.mock import patch
from urllib.parse import unquote

import plotly.graph_objects as go
import torch
from plotly.offline import get_plotlyjs

import analysis
from analysis.retention.record import merge_retention, retention_from_cache
from treekv import TreeKVCache, TreeKVConfig, load_model, policies, policy_names

POLICIES = [name for name in policy_names() if policies.get(name).evicts_decoding]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--text", type=Path, help="a text file; random tokens otherwise")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--cache-size", type=int, default=512)
    parser.add_argument("--layers", help="simulate these only, such as 0,14,29")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--closeness", action="store_true", help="compare with real runs instead of timing")
    parser.add_argument("--policies", default=",".join(POLICIES))
    parser.add_argument(
        "--figure", type=Path, help="with --closeness: the densities of tree, to this .html or .svg file"
    )
    arguments = parser.parse_args()
    if arguments.closeness and arguments.layers is not None:
        parser.error("--layers is for timing; --closeness compares all layers")
    torch.set_num_threads(arguments.threads)
    model, tokenizer = load_model(arguments.model)
    if arguments.text is None:
        vocabulary = model.config.get_text_config().vocab_size
        ids = torch.randint(vocabulary, (arguments.tokens,), generator=torch.Generator().manual_seed(0))
    else:
        text = arguments.text.read_text(encoding="utf-8")
        ids = torch.tensor(tokenizer(text, verbose=False)["input_ids"][: arguments.tokens])
    start = time.perf_counter()
    captured = analysis.capture(model, tokenizer, ids, max_tokens=len(ids))
    forward = time.perf_counter() - start
    print(
        f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"{captured.tokens:,} tokens of {arguments.model}, {len(captured.layers)} layers, "
        f"cache of {arguments.cache_size}"
    )
    base = TreeKVConfig(cache_size=arguments.cache_size, prefill="stream", block_size=16)
    configs = {name: base.replace(policy=name) for name in arguments.policies.split(",")}
    if arguments.closeness:
        closeness(model, captured, ids, configs, arguments.figure)
    else:
        layers = captured.layers if arguments.layers is None else [int(layer) for layer in arguments.layers.split(",")]
        times(captured, configs, forward, layers)


def times(captured: analysis.Capture, configs: dict[str, TreeKVConfig], forward: float, layers: list[int]) -> None:
    start = time.perf_counter()
    analysis.simulate(captured, configs, layers=layers[:1])
    print(
        f"the first simulation, of one layer, with the compiler's work or that of an earlier process read: "
        f"{time.perf_counter() - start:.2f} s"
    )
    for size in (16, 4, 2, 1):
        blocks = f"in blocks of {size}" if size > 1 else "token by token"
        chosen = {name: config.replace(block_size=size) for name, config in configs.items()}
        single = 0.0
        for name, config in chosen.items():
            start = time.perf_counter()
            analysis.simulate(captured, {name: config}, layers=layers)
            seconds = time.perf_counter() - start
            single += seconds
            print(f"  {name} alone, {blocks}: {seconds:.2f} s, {seconds / forward:.2f} of the capture's forward pass")
        start = time.perf_counter()
        with patch.object(policies.Policy, "has_contest", False):  # every step then runs in torch
            analysis.simulate(captured, chosen, layers=layers)
        own = time.perf_counter() - start
        start = time.perf_counter()
        retention = analysis.simulate(captured, chosen, layers=layers)
        seconds = time.perf_counter() - start
        analysis.output_loss(captured, retention)
        losses = time.perf_counter() - start - seconds
        print(
            f"all {len(chosen)} together, {blocks}: {seconds:.2f} s, {seconds / forward:.2f} of the capture's forward "
            f"pass, {seconds / single:.2f} of one after the other, {seconds / own:.2f} of the policies' own code "
            f"({own:.2f} s); what they lose: {losses:.2f} s"
        )


def closeness(
    model: torch.nn.Module,
    captured: analysis.Capture,
    ids: torch.Tensor,
    configs: dict[str, TreeKVConfig],
    figure: Path | None,
) -> None:
    print("policy, positions: Jaccard index of the tokens held at the end, simulated and real; mean over heads")
    thirds = len(captured.layers) // 3
    for name, config in configs.items():
        simulated = analysis.simulate(captured, {"simulated": config})
        for positions in ("rank", "original"):
            cache = TreeKVCache(config.replace(positions=positions, block_size=16, trace=True), model.config)
            with torch.inference_mode():
                for first in range(0, len(ids), 256):
                    model(ids[None, first : first + 256], past_key_values=cache)
            both = merge_retention(simulated, retention_from_cache(cache, "real", model=model))
            between = analysis.agreement(both).sel(policy="simulated", other="real").values
            parts = [between[:1], between[1:thirds], between[thirds : 2 * thirds], between[2 * thirds :]]
            words = ", ".join(f"{part.mean():.3f}" for part in parts)
            print(
                f"  {name}, {positions}: {between.mean():.3f} (first layer, rest of first, second, last third: {words})"
            )
            if figure is not None and name == "tree" and positions == "rank":
                draw(analysis.plot.density(both), figure)


def draw(figure: go.Figure, path: Path) -> None:
    """As a page, or as a picture, which a browser draws without a window (playwright and Debian's chromium)."""
    if path.suffix != ".svg":
        figure.write_html(path)
        return
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page()
        page.set_content(f"<script>{get_plotlyjs()}</script>")
        address = page.evaluate(
            "figure => Plotly.toImage(figure, {format: 'svg', width: 860, height: 460})", json.loads(figure.to_json())
        )
        browser.close()
    path.write_text(unquote(address.partition(",")[2]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
