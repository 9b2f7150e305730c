"""The loss that settings cost, measured: the text streams through a real cache of each.

    measured = analysis.measure(model, captured, {"tree": TreeKVConfig(cache_size=128, prefill="stream")})
    predicted = analysis.replay(model, captured, {...})     # the same layout

Settings are rows of one batch, so that the model's weights are read once for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import xarray as xr
from torch import nn

from analysis.evaluation.stream import stream_perplexity
from analysis.named_settings import Settings, by_name
from analysis.prediction.computing import computing_in
from analysis.prediction.loss_table import (
    FULL,
    Text,
    check_configs,
    check_losses,
    checked_text,
    loss_table,
    vocabulary_size,
)
from analysis.prediction.row_caches import RowCaches
from analysis.progress import Progress
from treekv import TreeKVCache
from treekv.config import TreeKVConfig

ROWS: Final = 8  # of a batch
PASS_TOKENS: Final = 512  # of all rows in one pass: enough to saturate a CPU
PASS_LOGITS: Final = 2**26  # numbers in one pass, 256 MB


def measure(
    model: nn.Module,
    text: Text,
    configs: Settings,
    *,
    prompt: int = 0,
    dtype: str | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Measure the loss of each token of a text under several settings.

    The text is read as `simulate` reads it. Without a prompt, settings with prefill "stream" read it in blocks of
    their `block_size`, others token by token; after a prompt, which is read by the settings' own prefill, all read
    token by token. Policies that act on prompts only, such as "snapkv", evict nothing without one.

    Args:
        model: a model whose attention is "treekv" (as `load_model` returns it).
        text: a captured text, of which only the tokens are used, or token ids [T].
        configs: as of `analysis.simulate`.
        prompt: how many first tokens are a prompt; they and the one after them are not scored.
        dtype: as of `replay`.
        progress: called with (done, total), tokens times rows.

    Returns:
        As `replay`. Interrupted from the keyboard, those that are finished, if that are the full cache and another
        one, with attrs["interrupted"] = 1.

    Raises:
        TreeKVError: as of `replay`, or settings that the model cannot be used with.
    """
    configs = by_name(configs)
    check_configs(configs)
    ids = checked_text(model, text, prompt)
    rows = {FULL: TreeKVConfig(policy=FULL), **configs}
    rows = {name: config.for_model(model.config) for name, config in rows.items()}
    for config in rows.values():  # all of them before the first one runs
        TreeKVCache(config, model.config)
    losses: dict[str, np.ndarray] = {}
    interrupted, before, total = 0, 0, len(rows) * len(ids)
    with computing_in(model, dtype) as computing:
        for names, chunk in _batches(rows, prompt, vocabulary_size(model)):

            def report(done: int, tokens: int, start: int = before, count: int = len(names)) -> None:
                if progress is not None:
                    progress(start + done * count, total)

            cache = RowCaches([TreeKVCache(rows[name], computing.config) for name in names], computing.config)
            try:
                found = stream_perplexity(computing, ids.expand(len(names), -1), cache, chunk, report, prompt)
            except KeyboardInterrupt:
                if len(losses) < 2:
                    raise
                interrupted = 1
                break
            check_losses(found.nll.numpy(), computing)
            losses |= dict(zip(names, found.nll.numpy(), strict=True))
            before += len(names) * len(ids)
        computed = str(next(computing.parameters()).dtype).removeprefix("torch.")
    ordered = {name: losses[name] for name in rows if name in losses}
    return loss_table(ordered, rows, text, model, prompt, source="run", dtype=computed, interrupted=interrupted)


def _batches(rows: Mapping[str, TreeKVConfig], prompt: int, vocabulary: int) -> list[tuple[list[str], int]]:
    """Names that can be the rows of one batch, and how many tokens they read in one pass.

    A stream is evicted block by block in passes of any number of blocks. The full cache goes with the first batch.
    """
    by_block: dict[int, list[str]] = {}
    for name, config in rows.items():
        if name != FULL:
            block = config.block_size if config.prefill == "stream" and not prompt else 1
            by_block.setdefault(block, []).append(name)
    batches: list[tuple[list[str], int]] = []
    for block, names in sorted(by_block.items(), reverse=True):
        if not batches:
            names = [FULL, *names]
        for first in range(0, len(names), ROWS):
            part = names[first : first + ROWS]
            most = min(PASS_TOKENS, PASS_LOGITS // vocabulary) // (len(part) * block)
            batches.append((part, block * max(most, 1) if block > 1 else 1))
    return batches
