"""One table that compares settings on a captured text: what each keeps, what that loses, and what it takes.

    table = compare(captured, {"tree": TreeKVConfig(cache_size=128), "h2o": TreeKVConfig(policy="h2o", cache_size=128)})
    table.to_dataframe()

The same numbers are in the command `treekv compare` and on the dashboard's page Compare.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from torch import nn

from analysis.captures.data import Capture
from analysis.memory_size import cache_bytes
from analysis.named_settings import Settings, by_name
from analysis.progress import Progress
from analysis.retention.bias import recency_bias
from analysis.retention.loss import output_loss
from analysis.retention.record import kept_mask
from analysis.retention.simulate import simulate
from treekv.config import TreeKVConfig
from treekv.errors import TreeKVError


def compare(
    captured: Capture,
    configs: Settings,
    *,
    layers: Sequence[int] | None = None,
    prompt: int = 0,
    model: nn.Module | None = None,
    retention: xr.Dataset | None = None,
    lost: xr.Dataset | None = None,
    tokens: int | None = None,
    batch: int = 1,
    dtype: str = "bfloat16",
    progress: Progress | None = None,
) -> xr.Dataset:
    """Simulate each of the settings and summarise them in one number each.

    Args:
        captured: the captured text.
        configs: as of `simulate`.
        layers: the model's numbers of the layers to simulate; all captured ones by default.
        prompt: how many tokens to treat as a prompt, as of `simulate`.
        model: as of `output_loss`.
        retention: the record of these settings, if it has been computed already; `layers` and `prompt` are then not
            used.
        lost: what `output_loss` gave for this record, likewise.
        tokens, batch, dtype: for which length of context, rows and number type to count bytes, as of `cache_bytes`;
            the length of the captured text when `tokens` is None.
        progress: as of `simulate`.

    Returns:
        Dataset over `policy`, in the order of `configs`:
          kept        tokens kept at the end of the text, mean over layers and KV heads; by settings that evict several
                      at once (`TreeKVConfig.interval`) the most while so many tokens pass
          mass        share of attention retained, 0 to 1, mean over layers, query heads and queries
          error       relative error of the attention output, mean over layers and queries
          distance    tokens: how far the kept tokens are from the tree's ideal, mean over layers and KV heads; NaN if
                      one of them has too few tokens for a tree (see `recency_bias`)
          gini        unevenness over the tenths of the text, 0 to 0.9, mean over layers and KV heads
          ideal_gini  the same of the tree's ideal; NaN as `distance`
          bytes       keys and values of the whole model, int64
        attrs: tokens, prompt, model, and for `bytes` context, batch and dtype.

    Raises:
        TreeKVError: as `simulate`, `output_loss` and `cache_bytes` do, and for settings that the given record lacks.
    """
    configs = by_name(configs)
    if retention is None:
        retention = simulate(captured, configs, layers=layers, prompt=prompt, progress=progress)
    missing = [name for name in configs if name not in retention["policy"].values]
    if missing:
        raise TreeKVError(f"the record has no settings called {missing[0]!r}")
    if lost is None:
        lost = output_loss(captured, retention, model=model)
    names = list(configs)
    retention, lost = retention.sel(policy=names), lost.sel(policy=names)
    step = int(retention.attrs["steps"]) - 1
    context = captured.tokens if tokens is None else tokens
    taken = [cache_bytes(captured, config, context, batch=batch, dtype=dtype) for config in configs.values()]
    heads = ("layer", "head")
    columns = {
        "kept": (_most_kept(retention, configs, step), "tokens"),
        "mass": (lost["mass"].mean((*heads, "query")), "1"),
        "error": (lost["error"].mean(("layer", "query")), "1"),
    }
    uneven = recency_bias(retention, step).mean(heads, skipna=False)
    columns |= {name: (uneven[name], "tokens" if name == "distance" else "1") for name in uneven.data_vars}
    table = {name: ("policy", values.values, {"units": unit}) for name, (values, unit) in columns.items()}
    table["bytes"] = ("policy", np.array(taken, dtype=np.int64), {"units": "bytes"})
    return xr.Dataset(
        table,
        coords={"policy": names},
        attrs={
            "tokens": captured.tokens,
            "prompt": int(retention.attrs.get("prompt", prompt)),
            "model": captured.model,
            "context": context,
            "batch": batch,
            "dtype": dtype,
        },
    )


def _most_kept(retention: xr.Dataset, configs: Mapping[str, TreeKVConfig], step: int) -> xr.DataArray:
    """The most tokens kept after any of the last `interval` tokens up to `step`, mean over layers and heads."""
    most = []
    for name, config in configs.items():
        own = retention.sel(policy=[name])
        last = range(max(step + 1 - config.interval, 0), step + 1)
        held = [kept_mask(own, at).sum("position").mean(("layer", "head")) for at in last]
        most.append(held[0] if len(held) == 1 else xr.concat(held, "at").max("at"))
    return xr.concat(most, "policy")
