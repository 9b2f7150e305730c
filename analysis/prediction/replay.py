"""The loss that settings cost, predicted by one forward pass each.

    predicted = analysis.replay(model, captured, {"tree": TreeKVConfig(cache_size=128, prefill="stream")})
    predicted["loss"].mean("position")       # nats a token, of the full cache and of each setting

The model runs once over the captured text, and every head is masked at each query to what the policy held at that
step. Since a layer at one token needs the layer below at earlier tokens only, all tokens go through a layer at once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

import numpy as np
import xarray as xr
from torch import Tensor, nn

from analysis.captures.data import Capture
from analysis.captures.forward_pass import predicted_layers
from analysis.captures.rotary_record import rotary_attrs
from analysis.named_settings import Settings, by_name
from analysis.prediction.computing import computing_in
from analysis.prediction.loss_table import FULL, Text, check_configs, check_losses, checked_text, loss_table
from analysis.prediction.masked_pass import Held, masked_losses
from analysis.progress import Progress
from analysis.retention.simulate import simulate
from treekv.config import TreeKVConfig
from treekv.errors import TreeKVError

TOKENS_AT_ONCE: Final = 4096  # of all rows of a pass together; a longer text runs alone


def replay(
    model: nn.Module,
    text: Text,
    configs: Settings,
    *,
    retention: xr.Dataset | None = None,
    prompt: int = 0,
    full: bool = True,
    dtype: str | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Predict the loss of each token of a text under several settings.

    Each policy decides in the pass itself, from the queries and keys that its own evictions in the layers below have
    led to. So this is a real run computed layer by layer: equal to streaming with positions="original", up to
    rounding. With positions="rank" a real run also renumbers what is kept, and with "compressed" it sees far tokens
    nearer, which is left out here, as in `simulate`.

    Args:
        model: the model that was captured; its attention must be "treekv" (as `load_model` returns it).
        text: the captured text, of which only the tokens are used, or token ids [T].
        configs: as of `analysis.simulate`.
        retention: mask to this record instead, of the same text and of all full-attention layers, as `simulate` or
            `retention_from_cache` returns it: what was held is then taken from there.
        prompt: as of `simulate`; the tokens of a prompt and the one after it are not scored.
        full: whether the full cache is the first row; without it, add the settings to a table that has one.
        dtype: "float32", "bfloat16" or "float16" to compute in; by default bfloat16 for a float32 model on a CPU with
            instructions for it, else the model's own. Differences between settings change by thousandths of a nat.
        progress: called with (done, total), layers times rows.

    Returns:
        Dataset with `loss` in nats, float32 (policy, position): of the token at `position`, predicted from what was
        held after the one before. The first policy is "full", the full cache. Interrupted from the keyboard, those
        that are finished, if at least one of the settings is, with attrs["interrupted"] = 1.

    Raises:
        TreeKVError: no settings, another checkpoint than the captured one, a number out of range, or a record of
            another text or without one of the layers or settings; losses that are not finite.
    """
    configs = by_name(configs)
    check_configs(configs)
    ids = checked_text(model, text, prompt)
    layers = predicted_layers(model.config)
    if retention is not None:
        _check_record(retention, configs, layers, len(ids))
    rows = {FULL: TreeKVConfig(policy=FULL), **configs} if full else dict(configs)
    names, interrupted = list(rows), 0
    losses: dict[str, np.ndarray] = {}
    at_once = max(TOKENS_AT_ONCE // len(ids), 1)
    done, total = 0, len(layers) * len(names)

    with computing_in(model, dtype) as computing:
        for first in range(0, len(names), at_once):
            part = names[first : first + at_once]

            def report(rows: int = len(part)) -> None:
                nonlocal done
                done += rows
                if progress is not None:
                    progress(done, total)

            if retention is None:
                held = _decided(ids, layers, [rows[name] for name in part], prompt, rotary_attrs(model.config))
            else:
                held = _recorded(retention, [None if name == FULL else name for name in part])
            try:
                found = masked_losses(computing, ids, len(part), held, report)
            except KeyboardInterrupt:
                if len(losses) < 1 + full:
                    raise
                interrupted = 1
                break
            check_losses(found, computing)
            losses |= dict(zip(part, found[:, prompt:], strict=True))
        computed = str(next(computing.parameters()).dtype).removeprefix("torch.")
    source = "replay" if retention is None else "replay of a record"
    return loss_table(losses, rows, text, model, prompt, source=source, dtype=computed, interrupted=interrupted)


def _decided(ids: Tensor, layers: list[int], configs: list[TreeKVConfig], prompt: int, rotary: dict[str, str]) -> Held:
    """Each row's policy decides from the queries and keys of the pass."""
    sizes = json.dumps([(number, 1, None) for number in layers])  # which layers there are; the sizes do not matter
    attrs = {"model_layers": sizes, **rotary}
    words = [""] * len(ids)

    def held(layer: int, row: int, q: Tensor, k: Tensor, v: Tensor, scaling: float) -> np.ndarray | None:
        config = configs[row]
        if config.policy == FULL:
            return None
        one = Capture([q], [k], [v], [scaling], [layer], ids, words, [], "", attrs)
        return simulate(one, {"": config}, prompt=prompt)["evicted_at"].values[0, 0]

    return held


def _recorded(retention: xr.Dataset, names: list[str | None]) -> Held:
    """What a record says of each row; None is the full cache."""
    evicted_at = retention["evicted_at"].transpose("policy", "layer", "head", "position")
    place = {int(layer): index for index, layer in enumerate(retention["layer"].values)}
    chosen = [None if name is None else evicted_at.sel(policy=name).values for name in names]

    def held(layer: int, row: int, *others: object) -> np.ndarray | None:
        found = chosen[row]
        return None if found is None else found[place[layer]]

    return held


def _check_record(retention: xr.Dataset, configs: Mapping[str, TreeKVConfig], layers: list[int], tokens: int) -> None:
    if retention.sizes["position"] != tokens:
        raise TreeKVError(
            f"the record has {retention.sizes['position']} tokens, the text {tokens}; both must be of the same text"
        )
    recorded = {int(layer) for layer in retention["layer"].values}
    missing: list[object] = [layer for layer in layers if layer not in recorded]
    if missing:
        raise TreeKVError(
            f"the record lacks layer {missing[0]}; the loss depends on all {len(layers)} full-attention layers, so "
            "simulate all of them"
        )
    missing = [name for name in configs if name not in retention["policy"].values and configs[name].policy != FULL]
    if missing:
        raise TreeKVError(f"the record has no settings called {missing[0]!r}")
