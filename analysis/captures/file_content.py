"""What a capture file must hold: checked when it is opened, so that nothing fails or lies later."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
import xarray as xr

from analysis.captures import rotary_record
from treekv.errors import TreeKVError

_STATES = {
    "q": ("layer", "query_head", "position", "channel"),
    "k": ("layer", "kv_head", "position", "channel"),
    "v": ("layer", "kv_head", "position", "value_channel"),
}
_GRADIENTS = {"g": ("layer", "query_head", "position", "value_channel"), "g_scale": ("layer",)}
_OTHERS = {
    "scaling": ("layer",),
    "layer": ("layer",),
    "token": ("position",),
    "token_id": ("position",),
    "query_position": ("query_position",),
}


def check_content(dataset: xr.Dataset) -> None:
    """Raise TreeKVError, naming the file if there is one, for a capture of impossible shape or content."""
    wrong = _shapes(dataset) or _numbers(dataset) or _attributes(dataset)
    if wrong:
        source = dataset.encoding.get("source")
        name = "the dataset" if source is None else repr(str(source))
        raise TreeKVError(f"{name} cannot be a capture: {wrong}; capture the text again")


def _shapes(dataset: xr.Dataset) -> str | None:
    dims = _STATES | _OTHERS | (_GRADIENTS if "g" in dataset.variables else {})
    for name, expected in dims.items():
        found = dataset[name].dims if name in dataset.variables else None
        if found != expected:
            has = "is missing" if found is None else f"has dimensions ({', '.join(map(str, found))})"
            return f"{name!r} {has}, not ({', '.join(expected)})"
    empty = next((name for name, size in dataset.sizes.items() if not size), None)
    if empty is not None:
        return f"its dimension {str(empty)!r} is empty"
    heads, kv_heads = dataset.sizes["query_head"], dataset.sizes["kv_head"]
    if heads % kv_heads:
        return f"{heads} query heads cannot share {kv_heads} KV heads"
    return None


def _numbers(dataset: xr.Dataset) -> str | None:
    tensors = [name for name in (*_STATES, "g", "g_scale", "scaling") if name in dataset.variables]
    for name in tensors:
        values = dataset[name].values
        if values.dtype.kind != "f":
            return f"{name!r} is of type {values.dtype}, not of floating-point numbers"
        # One layer at a time: what the check needs is then small.
        if not all(bool(torch.from_numpy(np.asarray(layer)).isfinite().all()) for layer in values):
            return f"{name!r} has numbers that are not finite"
    for name in ("layer", "query_position", "token_id"):
        if dataset[name].dtype.kind not in "iu":
            return f"{name!r} is of type {dataset[name].dtype}, not of whole numbers"
        if (dataset[name].values < 0).any():
            return f"{name!r} has the negative number {int(dataset[name].values.min())}"
    for name in ("layer", "query_position"):
        if (np.diff(dataset[name].values.astype(np.int64)) <= 0).any():
            return f"the numbers of {name!r} do not ascend"
    last, tokens = int(dataset["query_position"].values[-1]), dataset.sizes["position"]
    if last >= tokens:
        return f"query position {last} is outside its {tokens} tokens"
    for name in ("scaling", "g_scale"):
        if name in dataset.variables and (dataset[name].values <= 0).any():
            return f"{name!r} has the number {float(dataset[name].values.min())}, which is not above 0"
    return None


def _attributes(dataset: xr.Dataset) -> str | None:
    recorded: dict[str, Any] = {}
    for name in ("model_layers", "rotary"):
        if name in dataset.attrs:
            try:
                recorded[name] = json.loads(dataset.attrs[name])
            except (TypeError, ValueError, RecursionError):
                return f"its attribute {name!r} is not JSON"
    if "model_layers" in recorded:
        layers = recorded["model_layers"]
        if not isinstance(layers, list) or not all(map(_is_cache_layer, layers)):
            return "its attribute 'model_layers' is no list of [number, channels, window or null]"
        full = {number for number, _, window in layers if window is None}
        unknown = [int(number) for number in dataset["layer"].values if number not in full]
        if unknown:
            return f"its layer {unknown[0]} is none of the full-attention layers in 'model_layers'"
    if "rotary" in recorded:
        return rotary_record.fault(recorded["rotary"], dataset["layer"].values.tolist(), dataset.sizes["channel"])
    return None


def _is_cache_layer(layer: Any) -> bool:
    return (
        isinstance(layer, list)
        and len(layer) == 3
        and all(type(x) is int for x in layer[:2])
        and layer[0] >= 0
        and layer[1] > 0
        and (layer[2] is None or (type(layer[2]) is int and layer[2] > 0))
    )
