"""Quality against budget: the loss of settings on one text at several cache sizes.

curve = analysis.budget_curve(model, captured, [TreeKVConfig(), TreeKVConfig(policy="streaming")], sizes=[64, 128, 256])
analysis.plot.budget_curve(curve)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import xarray as xr
from torch import nn

from analysis.captures.data import Capture
from analysis.named_settings import Settings, by_name
from analysis.prediction.loss_table import Text, extra_loss
from analysis.prediction.measure import measure
from analysis.prediction.replay import replay
from analysis.progress import Progress
from treekv.config import TreeKVConfig
from treekv.errors import TreeKVError
from treekv.resize import resized

LEAST: Final = 32  # tokens of the smallest of `usual_sizes`


def budget_curve(
    model: nn.Module,
    text: Text,
    configs: Settings,
    sizes: Sequence[int] | None = None,
    *,
    measured: bool = False,
    prompt: int = 0,
    dtype: str | None = None,
    progress: Progress | None = None,
) -> xr.DataArray:
    """The loss of each of the settings above the full cache, at each cache size.

    Args:
        model, text, prompt, dtype, progress: as of `analysis.replay`.
        configs: as of `analysis.simulate`; their own `cache_size` is not used.
        sizes: cache sizes, tokens; halves of the text down to 32 if None.
        measured: with real caches, as by `analysis.measure`, instead of a pass of the model for each.

    Returns:
        float64 (policy, size), nats a token; attrs source, "replay" or "run".

    Raises:
        TreeKVError: as `at_sizes`, `analysis.replay` and `analysis.measure` do.
    """
    names = by_name(configs)
    length = text.tokens if isinstance(text, Capture) else len(text)
    wanted = at_sizes(names, usual_sizes(length) if sizes is None else sizes)
    flat = {f"{name}, {size} tokens": config for (name, size), config in wanted.items()}
    find = measure if measured else replay
    extra = extra_loss(find(model, text, flat, prompt=prompt, dtype=dtype, progress=progress))
    there = set(extra["policy"].values.tolist())  # an interrupted run lacks some
    pairs = zip(wanted, flat, strict=True)
    found = {pair: float(extra.sel(policy=name)) for pair, name in pairs if name in there}
    return as_curve(found, list(names), "run" if measured else "replay")


def usual_sizes(tokens: int) -> list[int]:
    """Halves of a text of so many tokens, down to 32, in multiples of 16: [64, 128, 256, 512] of 1,024."""
    halves = [tokens >> power for power in range(1, 6)]
    return sorted({half // 16 * 16 for half in halves if half // 16 * 16 >= LEAST})


def at_sizes(configs: Mapping[str, TreeKVConfig], sizes: Sequence[int]) -> dict[tuple[str, int], TreeKVConfig]:
    """The settings at each cache size, by name and size; sinks stay, recent tokens and blocks as far as they fit, and
    budgets of layers or heads in proportion.

    Raises:
        TreeKVError: no sizes, or one that the settings cannot have.
    """
    if not sizes:
        raise TreeKVError("no cache sizes given; the text may be too short for the usual ones")
    found = {}
    for name, config in configs.items():
        for size in sizes:
            found[name, int(size)] = resized(config, int(size))
    return found


def as_curve(found: Mapping[tuple[str, int], float], names: Sequence[str], source: str) -> xr.DataArray:
    """Losses by name and size as an array; NaN where there are none."""
    sizes = sorted({size for _, size in found})
    values = np.array([[found.get((name, size), np.nan) for size in sizes] for name in names])
    return xr.DataArray(
        values.reshape(len(names), len(sizes)),
        dims=("policy", "size"),
        coords={"policy": list(names), "size": sizes},
        name="extra_loss",
        attrs={"units": "nats", "long_name": "loss above the full cache", "source": source},
    )
