"""Retention records: which tokens a policy keeps at every step, from a simulation or from a real run's trace.

A record is a Dataset over (policy, layer, head, position) with `evicted_at` (the position of the token that
was being processed when this one was evicted, -1 if it never was) and `survivor` (the position of the token that won
the comparison, -1 without a comparison), and attrs["steps"]. A token at position p is kept at step t if p <= t and it
was not evicted at t or before.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from analysis import binning, netcdf
from treekv.errors import TreeKVError

if TYPE_CHECKING:  # a stored record is drawn without torch
    from torch import nn

    from treekv.cache import TreeKVCache

FORMAT = "treekv-retention"
MAX_CELLS = 512


def retention_from_cache(
    cache: TreeKVCache,
    name: str | None = None,
    tokens: Sequence[str] | None = None,
    row: int = 0,
    *,
    model: nn.Module | None = None,
) -> xr.Dataset:
    """The record of a real run, in the form that `simulate` returns, so that the same functions analyse and draw it.

    Args:
        cache: a cache with `config.trace` true that has processed tokens.
        name: the policy's name in the record; `cache.config.policy` when None.
        tokens: the text of the row's tokens without padding, for hover boxes. It may be longer than the record:
            the last token that `generate` returns was never processed.
        row: which row of the batch.
        model: the model that ran; the record then has its name (attrs["model"]), which a cache does not know.

    Returns:
        Dataset with `evicted_at` and `survivor`, int32 (policy, layer, head, position): one policy, layers by the
        model's numbers, KV heads, positions counted without the row's padding.

    Raises:
        TreeKVError: nothing was recorded or processed, the row does not exist, or there are too few token texts.
    """
    trace = cache.trace
    if not trace:
        raise TreeKVError("the cache has not processed any token yet; run the model with it first")
    rows = next(iter(trace.values())).evicted_at.shape[0]
    if not 0 <= row < rows:
        raise TreeKVError(f"row must be between 0 and {rows - 1}, got {row}")
    # A row of a padded batch has processed fewer tokens than the trace is long.
    steps = {layer: cache.tokens_seen(layer, row) for layer in trace}
    length = min(steps.values())
    if length != max(steps.values()):
        raise TreeKVError(
            "the last forward pass was interrupted between two layers, so they have seen different tokens; "
            "call cache.reset() and start again with the prompt"
        )
    if tokens is not None and len(tokens) < length:
        raise TreeKVError(f"the cache has processed {length} tokens, but the text of only {len(tokens)} is given")
    name = cache.config.policy if name is None else name
    coords = {
        "policy": [name],
        "layer": np.asarray(list(trace), dtype=np.int32),
        "head": np.arange(next(iter(trace.values())).evicted_at.shape[1], dtype=np.int32),
        "position": np.arange(length, dtype=np.int32),
    }
    if tokens is not None:
        coords["token"] = ("position", np.asarray([t.replace("\0", "\u2400") for t in tokens[:length]], dtype=np.str_))
    dims = ("policy", "layer", "head", "position")
    arrays = {
        field: (dims, np.stack([getattr(one, field)[row, :, :length].cpu().numpy() for one in trace.values()])[None])
        for field in ("evicted_at", "survivor")
    }
    attrs = {
        "format": FORMAT,
        "format_version": netcdf.FORMAT_VERSION,
        "steps": length,
        "source": "run",
        "configs": json.dumps({name: cache.config.to_dict()}),
        **netcdf.versions(),
    }
    if model is not None:
        from treekv.model_identity import model_name

        attrs["model"] = model_name(model.config)
    return xr.Dataset(arrays, coords=coords, attrs=attrs)


def merge_retention(*records: xr.Dataset) -> xr.Dataset:
    """Merge the policies of several records of the same text, such as a simulation and a real run, into one record.

    Raises TreeKVError when their positions, layers or heads differ, or two policies have the same name.
    """
    first = records[0]
    names = [str(name) for record in records for name in record["policy"].values]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise TreeKVError(f"several records have a policy called {twice[0]!r}; rename one of them")
    for record in records[1:]:
        for dim in ("layer", "head", "position"):
            if record[dim].values.tolist() != first[dim].values.tolist():
                raise TreeKVError(
                    f"the records differ in their {dim}s: {record.sizes[dim]} and {first.sizes[dim]}, or other numbers"
                )
    together = xr.concat(
        [record.drop_vars("token", errors="ignore") for record in records], "policy", combine_attrs="override"
    )
    for record in records:
        if "token" in record.coords:
            together = together.assign_coords(token=record["token"])
            break
    configs: dict[str, object] = {}
    for record in records:
        configs |= json.loads(record.attrs.get("configs", "{}"))
    sources = {str(record.attrs.get("source", "")) for record in records} - {""}
    attrs = {name: value for record in reversed(records) for name, value in record.attrs.items()}
    return together.assign_attrs({**attrs, "configs": json.dumps(configs), "source": " and ".join(sorted(sources))})


def kept_mask(retention: xr.Dataset, step: int) -> xr.DataArray:
    """Which tokens are kept after the token at position `step` was processed: bool, dims of `evicted_at`.

    Raises TreeKVError for a step outside the record.
    """
    steps = int(retention.attrs["steps"])
    if not 0 <= step < steps:
        raise TreeKVError(f"step {step} is outside the record; give 0 to {steps - 1}")
    evicted_at = retention["evicted_at"]
    position = retention["position"]
    return (position <= step) & ((evicted_at < 0) | (evicted_at > step))


def density(
    retention: xr.Dataset,
    step: int | None = None,
    max_cells: int = MAX_CELLS,
    *,
    layer: int | None = None,
    head: int | None = None,
) -> xr.DataArray:
    """Share of layers and heads that keep a token, against its distance from the end, after `step`.

    `step` is the last one when None; the mean is over all layers unless `layer`, and over all KV heads unless `head`
    is given. Returns (policy, distance); distance 0 is the newest token. Long texts are averaged over bins of distances
    so that at most `max_cells` remain; the coordinate is the mean of each bin. Raises TreeKVError, listing what there
    is, for a step, layer or head that is not in the record.
    """
    retention = _of(retention, layer=layer, head=head)
    step = int(retention.attrs["steps"]) - 1 if step is None else step
    share = kept_mask(retention, step).mean(_averaged(layer, head)).transpose("policy", "position").values
    position = retention["position"].values
    share = share[:, position <= step][:, ::-1]
    distance = (step - position[position <= step])[::-1]
    borders = binning.edges(len(distance), max_cells)
    return xr.DataArray(
        binning.mean(share, borders),
        dims=("policy", "distance"),
        coords={
            "policy": retention["policy"].values,
            "distance": binning.mean(distance, borders),
        },
        name="density",
    )


def retention_map(
    retention: xr.Dataset,
    policy: str | None = None,
    layer: int | None = None,
    head: int | None = None,
    max_cells: int = MAX_CELLS,
    steps: tuple[int, int] | None = None,
    *,
    pooled: str = "mean",
) -> xr.DataArray:
    """What is kept in each cell of steps by positions: float32 (step, position), 0 to 1.

    A cell covers pairs of step and position with position <= step; a cell without any, in the future, is NaN. With
    pooled "mean" its value is the share of its pairs that are kept, with "any" 1 if one of them is, else 0; both are
    means over all layers and heads when `layer` and `head` are None. There are at most `max_cells` a side; the
    coordinates are each cell's first step and first position, attrs step_size and position_size its extent. `policy`
    may be None when the record has one policy. `steps` (first, end) selects the steps first to end - 1; select
    positions by `retention.isel(position=slice(...))`, in ascending order.

    Raises TreeKVError, listing what there is, for a policy, layer, head or steps that are not in the record, and
    for another value of `pooled`.
    """
    if pooled not in ("mean", "any"):
        raise TreeKVError(f"pooled must be 'mean' or 'any', got {pooled!r}")
    evicted_at = select(retention, policy, layer, head)["evicted_at"]
    first, last = (0, int(retention.attrs["steps"])) if steps is None else steps
    if not 0 <= first < last <= int(retention.attrs["steps"]):
        raise TreeKVError(f"steps must lie within 0 to {retention.attrs['steps']}, got {first} to {last}")
    position = retention["position"].values.astype(np.int32)
    evicted = evicted_at.transpose(..., "position").values.reshape(-1, len(position))
    evicted = np.where(evicted < 0, np.int32(last), evicted)
    row, column = first + binning.edges(last - first, max_cells), binning.edges(len(position), max_cells)
    # The number of pairs in each column before each border of the rows: those that exist, and those that are kept.
    start, prefix = column[:-1], np.append(0, np.cumsum(position, dtype=np.int64))
    until = np.clip(np.searchsorted(position, row)[:, None], start, column[1:])
    exists = row[:, None] * (until - start) - (prefix[until] - prefix[start])
    column_of = np.repeat(np.arange(len(start)), np.diff(column))

    def kept_pairs(evicted: np.ndarray) -> np.ndarray:
        """[rows, columns], summed over heads whose tokens were evicted at `evicted` [heads, positions]."""
        # From the first border after its eviction on, a token lacks the steps between.
        cell = (np.searchsorted(row, evicted, side="right") * len(start) + column_of).ravel()
        size = exists.size
        number = np.bincount(cell, minlength=size)[:size].reshape(exists.shape).cumsum(0)
        when = np.bincount(cell, weights=evicted.ravel(), minlength=size)[:size].reshape(exists.shape).cumsum(0)
        return np.diff(len(evicted) * exists - (row[:, None] * number - when), axis=0)

    pairs = np.diff(exists, axis=0)
    if pooled == "any":
        share = sum(kept_pairs(head[None]) > 0 for head in evicted) / len(evicted)
    else:
        with np.errstate(invalid="ignore"):
            share = kept_pairs(evicted) / (len(evicted) * pairs)
    cells = np.where(pairs > 0, share, np.nan).astype(np.float32)
    return xr.DataArray(
        cells,
        dims=("step", "position"),
        coords={"step": row[:-1], "position": position[column[:-1]].astype(np.int64)},
        name="kept",
        attrs={"step_size": int(row[1] - row[0]), "position_size": int(column[1] - column[0])},
    )


def _averaged(layer: int | None, head: int | None) -> list[str]:
    return [name for name, value in (("layer", layer), ("head", head)) if value is None]


def select(retention: xr.Dataset, policy: str | None, layer: int | None, head: int | None) -> xr.Dataset:
    """One policy, layer and head of a record; all layers or heads when None, the only policy when that is None.

    Raises TreeKVError, listing what there is, for one that is not in the record.
    """
    names = [str(name) for name in retention["policy"].values]
    if policy is None and len(names) > 1:
        raise TreeKVError(f"the record has several policies; choose one of {', '.join(names)}")
    return _of(retention, policy=names[0] if policy is None else policy, layer=layer, head=head)


def _of(retention: xr.Dataset, **chosen: str | int | None) -> xr.Dataset:
    for name, value in chosen.items():
        if value is None:
            continue
        there = retention[name].values.tolist()
        if value not in there:
            raise TreeKVError(f"{name} {value!r} is not in the record; choose one of {', '.join(map(str, there))}")
        retention = retention.sel({name: value})
    return retention
