"""What a policy keeps: questions to a retention record, from a simulation or from a real run's trace.

A record is a Dataset over (policy, layer, head, position) with `evicted_at` (the position of the token that
was being processed when this one was evicted, -1 if it never was) and `survivor` (who won the comparison, -1
if nobody), and attrs["steps"]. A token at position p is held at step t if p <= t and nothing evicted it up
to then.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import xarray as xr
from torch import nn

from analysis import binning, netcdf
from analysis.model_identity import model_name
from treekv import TreeKVCache
from treekv.errors import TreeKVError

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
    """The record of a real run, in the form that `simulate` gives, so that the same functions read and draw it.

    Args:
        cache: a cache with `config.trace` true that has processed tokens.
        name: what the record calls the policy; `cache.config.policy` when None.
        tokens: the text of the row's tokens, padding left out, for hover boxes. It may be longer than the record:
            the last token that `generate` returns was never processed.
        row: which row of the batch.
        model: the model that ran; the record then carries its name (attrs["model"]), which a cache does not know.

    Returns:
        Dataset with `evicted_at` and `survivor`, int32 (policy, layer, head, position): one policy, layers by the
        model's own numbers, KV heads, positions counted in the row's real tokens.

    Raises:
        TreeKVError: nothing was recorded or processed, no such row, or too few token texts.
    """
    trace = cache.trace
    if not trace:
        raise TreeKVError("the cache has processed no token yet; run the model with it first")
    rows = next(iter(trace.values())).evicted_at.shape[0]
    if not 0 <= row < rows:
        raise TreeKVError(f"row must be between 0 and {rows - 1}, got {row}")
    # A row of a padded batch has seen fewer tokens than the trace is long.
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
        attrs["model"] = model_name(model.config)
    return xr.Dataset(arrays, coords=coords, attrs=attrs)


def merge_retention(*records: xr.Dataset) -> xr.Dataset:
    """One record with the policies of several, of the same text, layers and heads, such as a simulation and a run.

    Raises TreeKVError when they are not of the same text, layers and heads, or share a policy's name.
    """
    first = records[0]
    names = [str(name) for record in records for name in record["policy"].values]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise TreeKVError(f"several records have a policy called {twice[0]!r}; give one of them another name")
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
    """Which tokens are held after the token at position `step` was processed: bool, dims of `evicted_at`.

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
    """Share of layers and heads that hold a token, against its distance from the end, after `step`.

    `step` is the last one when None; of `layer` and KV `head` those left open are averaged. Returns (policy, distance);
    distance 0 is the newest token, and long texts are averaged over runs of distances so that at most `max_cells`
    remain; the coordinate is a run's mean. Raises TreeKVError, listing what there is, for a step, layer or head that
    is not in the record.
    """
    retention = _of(retention, layer=layer, head=head)
    step = int(retention.attrs["steps"]) - 1 if step is None else step
    share = kept_mask(retention, step).mean(_left_open(layer, head)).transpose("policy", "position").values
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
    """What is held in each cell of steps by positions: float32 (step, position), 0 to 1.

    A cell holds pairs of step and position with position <= step; one without any, the future, is NaN. With pooled
    "mean" a cell is the share of its pairs that are held, with "any" 1 if one of them is, else 0; both are means over
    the layers and heads left open (None). There are at most `max_cells` a side; the coordinates are each cell's first
    step and first position, attrs step_size and position_size its extent. `policy` may be None when the record has
    one policy. `steps` (first, end) draws only the steps first to end - 1; of positions, draw some by
    `retention.isel(position=slice(...))`; they have to ascend.

    Raises TreeKVError, listing what there is, for a policy, layer, head or steps that are not in the record, and
    for another word for `pooled`.
    """
    if pooled not in ("mean", "any"):
        raise TreeKVError(f"pooled must be 'mean' or 'any', got {pooled!r}")
    evicted_at = select(retention, policy, layer, head)["evicted_at"]
    first, last = (0, int(retention.attrs["steps"])) if steps is None else steps
    if not 0 <= first < last <= int(retention.attrs["steps"]):
        raise TreeKVError(f"steps must lie within 0 to {retention.attrs['steps']}, got {first} to {last}")
    position = retention["position"].values.astype(np.int32)
    gone = evicted_at.transpose(..., "position").values.reshape(-1, len(position))
    gone = np.where(gone < 0, np.int32(last), gone)
    row, column = first + binning.edges(last - first, max_cells), binning.edges(len(position), max_cells)
    # How many pairs each column has before each border of the rows: what exists, and what is held.
    start, prefix = column[:-1], np.append(0, np.cumsum(position, dtype=np.int64))
    until = np.clip(np.searchsorted(position, row)[:, None], start, column[1:])
    exists = row[:, None] * (until - start) - (prefix[until] - prefix[start])
    column_of = np.repeat(np.arange(len(start)), np.diff(column))

    def pairs_held(gone: np.ndarray) -> np.ndarray:
        """[rows, columns] of some heads together, whose tokens went at `gone` [heads, positions]."""
        # From the first border beyond `gone` on, a token lacks what lies between.
        cell = (np.searchsorted(row, gone, side="right") * len(start) + column_of).ravel()
        size = exists.size
        number = np.bincount(cell, minlength=size)[:size].reshape(exists.shape).cumsum(0)
        when = np.bincount(cell, weights=gone.ravel(), minlength=size)[:size].reshape(exists.shape).cumsum(0)
        return np.diff(len(gone) * exists - (row[:, None] * number - when), axis=0)

    pairs = np.diff(exists, axis=0)
    if pooled == "any":
        share = sum(pairs_held(own[None]) > 0 for own in gone) / len(gone)
    else:
        with np.errstate(invalid="ignore"):
            share = pairs_held(gone) / (len(gone) * pairs)
    cells = np.where(pairs > 0, share, np.nan).astype(np.float32)
    return xr.DataArray(
        cells,
        dims=("step", "position"),
        coords={"step": row[:-1], "position": position[column[:-1]].astype(np.int64)},
        name="held",
        attrs={"step_size": int(row[1] - row[0]), "position_size": int(column[1] - column[0])},
    )


def _left_open(layer: int | None, head: int | None) -> list[str]:
    return [name for name, value in (("layer", layer), ("head", head)) if value is None]


def select(retention: xr.Dataset, policy: str | None, layer: int | None, head: int | None) -> xr.Dataset:
    """One policy, layer and head of a record, or all of those left open; the policy may be open if there is one.

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
