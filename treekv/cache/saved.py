"""A cache in a file: everything by which it would go on, and what its model must be.

Tokens, slots, scores, cursors, unfinished blocks, traces, and the sliding layers of hybrid models are kept as they are,
so that a cache that is loaded continues token for token as the one that was saved.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from treekv.budgets import shortened
from treekv.cache import cache_file, ledger_state, plain_layers
from treekv.cache.cache_file import CacheFile
from treekv.cache.hybrid_layer import attention_of
from treekv.cache.layer import TreeKVLayer
from treekv.cache.layer_group import LayerGroup
from treekv.cache.ledger_state import LedgerState, is_count
from treekv.cache.plain_layers import PlainState
from treekv.cache.split_layer import SplitLayer
from treekv.cache.state_shapes import state_shapes
from treekv.config import TreeKVConfig
from treekv.device import layer_devices, usable_device
from treekv.errors import TreeKVError
from treekv.model_identity import model_name, weights_fingerprint

#: What keys and values depend on in a model's configuration; its weights have a fingerprint.
MODEL_FIELDS: Final = (
    "model_type",
    "num_hidden_layers",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "sliding_window",
    "layer_types",
    "rope_parameters",
)


class SavedCache(NamedTuple):
    """What a file says of its cache before tensors are read.

    Attributes:
        config: its settings.
        model: the name of its model.
        tokens: columns that it has read, padding included.
        rows: of its batch.
        notes: what was given to `save`.
    """

    config: TreeKVConfig
    model: str
    tokens: int
    rows: int
    notes: dict[str, Any]


def description(model_config: Any) -> dict[str, Any]:
    """What a file says of the model with this configuration."""
    text = model_config.get_text_config(decoder=True)
    found: dict[str, Any] = {"name": model_name(model_config)}
    for name in MODEL_FIELDS:
        try:
            found[name] = cache_file.as_json(getattr(text, name, None), default=str)
        except Exception:  # transformers refuses to name one value where layers differ
            found[name] = str(text.to_dict().get(name))
    return found


def save(
    cache: Any,
    path: str | os.PathLike[str],
    own: Mapping[str, Any],
    model: Any,
    notes: Mapping[str, Any] | None,
) -> None:
    """See `TreeKVCache.save`; `own` is the `description` of the model that the cache was made for."""
    if model is not None and not isinstance(model, nn.Module):
        raise TreeKVError(f"the second argument must be the model, got {type(model).__name__}")
    if model is not None and any(description(model.config)[field] != own[field] for field in MODEL_FIELDS):
        raise TreeKVError(f"the cache was made for the model {own['name']!r}; save it with that one")
    for index, layer in enumerate(cache.layers):
        plain_layers.check_kind(index, layer, bool(_parts(layer)))
    tokens = _tokens_read(cache)
    tensors: dict[str, Tensor] = {}
    layers: list[Any] = []
    rows = 0
    for index, layer in enumerate(cache.layers):
        parts = _parts(layer)
        if parts:
            rows = parts[0].batch // parts[0].heads_as_rows
        plain = plain_layers.state_of(layer)
        tensors |= {f"{index}.{name}": tensor for name, tensor in plain.tensors.items()}
        compressed = [_save_part(part, f"{index}.{number}", tensors) for number, part in enumerate(parts)]
        layers.append({"parts": compressed, **plain.numbers})
    about = {
        "settings": cache.config.to_dict(),
        "model": dict(own),
        "weights": None if model is None else weights_fingerprint(model),
        "tokens": tokens,
        "rows": rows,
        "layers": layers,
        "notes": _plain_notes(notes or {}),
    }
    cache_file.write(path, tensors, about)


def describe(path: str | os.PathLike[str]) -> SavedCache:
    """See `TreeKVCache.describe`."""
    return _described(CacheFile(path))


def load(
    path: str | os.PathLike[str],
    model: Any,
    device: torch.device | str | None,
    empty: Callable[[TreeKVConfig, Any], Any],
) -> Any:
    """See `TreeKVCache.load`; `empty` makes a cache from settings and the configuration of a model."""
    network = model if isinstance(model, nn.Module) else None
    model_config = model if network is None else network.config
    if not isinstance(model_config, PreTrainedConfig):
        raise TreeKVError(
            f"the second argument must be the model, or its configuration, model.config, got {type(model).__name__}"
        )
    target = usable_device(device)
    file = CacheFile(path)
    described = _described(file)
    _check_model(file, description(model_config), network)
    cache = empty(described.config, model_config)
    if not (described.tokens and described.rows):
        raise file.damaged("it has read nothing")
    layers = file.about.get("layers")
    if not isinstance(layers, list) or len(layers) != len(cache.layers):
        raise file.damaged("it has another number of layers than its model")
    count = len(layers)
    devices = [target] * count if device is not None or network is None else layer_devices(network, count)
    tensors = file.tensors({str(index): own for index, own in enumerate(devices)})
    if network is not None:
        _check_dtype(file, tensors, network)
    shapes = state_shapes(cache.layers, model_config.get_text_config(decoder=True))
    try:
        states: dict[int, LedgerState] = {}  # by the identity of the part
        for index, (layer, saved) in enumerate(zip(cache.layers, layers, strict=True)):
            parts = _parts(layer)
            compressed = saved.pop("parts", None) if isinstance(saved, dict) else None
            if not isinstance(compressed, list) or len(compressed) != len(parts):
                raise TreeKVError(f"its layer {index} has other parts than the settings say")
            for number, (part, numbers) in enumerate(zip(parts, compressed, strict=True)):
                states[id(part)] = _load_part(part, f"{index}.{number}", numbers, tensors, described)
            _load_plain(index, layer, saved, tensors, described, shapes[index])
        if tensors:
            raise TreeKVError(f"it has tensors that no layer needs, such as {next(iter(tensors))!r}")
        for group in {id(part.owner): part.owner for layer in cache.layers for part in _parts(layer)}.values():
            assert isinstance(group, LayerGroup)  # the only owner there is
            ledger_state.restore(group.ledger, [states[id(part)] for part in group.layers])
    except TreeKVError as error:
        raise file.damaged(str(error)) from error
    return cache


def _check_dtype(file: CacheFile, tensors: Mapping[str, Tensor], model: nn.Module) -> None:
    """Refuse a model that does not compute in the dtype of the keys; else its first token would be refused."""
    held = next((tensor.dtype for name, tensor in tensors.items() if name.endswith(".keys")), None)
    dtypes = {one.dtype for one in model.parameters() if one.is_floating_point()}
    autocast = any(torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda"))
    if held is not None and dtypes and held not in dtypes and not autocast:
        raise TreeKVError(
            f"{file.name} holds keys and values in {held}, but the model computes in {next(iter(dtypes))}: load the "
            f"model with dtype={str(held).removeprefix('torch.')!r}"
        )


# ---------------------------------------------------------------------- parts of layers


def _parts(layer: Any) -> list[TreeKVLayer]:
    """Of a compressed layer; none of others."""
    layer = attention_of(layer)
    if isinstance(layer, SplitLayer):
        return layer.parts
    return [layer] if isinstance(layer, TreeKVLayer) else []


def _save_part(part: TreeKVLayer, name: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Collect its tensors; returns its numbers."""
    group = part.owner
    assert isinstance(group, LayerGroup)  # the only owner there is
    state = ledger_state.state_of(group.ledger, group.ledger_rows(part))
    own = {"keys": part.keys, "values": part.values, **state.tensors}
    numbers = state.numbers
    if part.queries is not None:
        own["queries"], numbers = part.queries, numbers | {"scaling": part.scaling}
    tensors |= {f"{name}.{key}": tensor for key, tensor in own.items()}
    return numbers


def _load_part(
    part: TreeKVLayer, name: str, numbers: Any, tensors: dict[str, Tensor], described: SavedCache
) -> LedgerState:
    """Give a part its keys and values, and return the state of its rows."""
    keys, values = _keys_and_values(name, tensors)
    heads = 1 if part.head_numbers is not None else keys.shape[1]
    if keys.shape[:2] != (described.rows * part.heads_as_rows, heads):
        raise TreeKVError(f"the keys {name} have the shape {list(keys.shape)}")
    # Tensors of no slots claim any number of rows for no bytes, but the numbers are one for each.
    used = ledger_state.used_slots(numbers, keys.shape[0])
    if keys.shape[2] < used:
        raise TreeKVError(f"the keys {name} have {keys.shape[2]} slots, but tokens stand in {used}")
    whole = (described.rows, heads, 0, keys.shape[3]), (described.rows, heads, 0, values.shape[3])
    part.lazy_initialization(keys.new_empty(whole[0]), values.new_empty(whole[1]))
    part.keys, part.values, part.tokens_seen = keys, values, described.tokens
    part.queries, part.scaling = _queries(part, name, numbers, tensors)
    own = {}
    for key in (*ledger_state.TENSORS, "undone", "log"):
        if f"{name}.{key}" in tensors:
            own[key] = tensors.pop(f"{name}.{key}")
        elif key in ledger_state.TENSORS:
            raise TreeKVError(f"the tensor {name}.{key} is missing")
    return LedgerState(own, numbers)


def _queries(part: TreeKVLayer, name: str, numbers: Any, tensors: dict[str, Tensor]) -> tuple[Tensor | None, float]:
    """The last queries of a part, if its policy looks at them, and the factor of their products."""
    group, queries = part.owner, tensors.pop(f"{name}.queries", None)
    assert isinstance(group, LayerGroup)  # the only owner there is
    policy, keys = group.ledger.policy, part.keys
    count = policy.last_queries(group.config) if policy.evicts_after(group.config) else 0
    if not count and queries is None:
        return None, 1.0
    scaling = numbers.get("scaling") if isinstance(numbers, dict) else None
    if queries is None or not isinstance(scaling, float) or queries.dtype != keys.dtype:
        raise TreeKVError(f"the queries {name} that its policy looks at are missing")
    right = queries.ndim == 4 and queries.shape[0] == keys.shape[0] and queries.shape[2:] == (count, keys.shape[3])
    if not right or queries.shape[1] % keys.shape[1]:
        raise TreeKVError(f"the queries {name} have the shape {list(queries.shape)}")
    return queries, scaling


def _load_plain(
    index: int,
    layer: Any,
    numbers: dict[str, Any],
    tensors: dict[str, Tensor],
    described: SavedCache,
    shapes: Mapping[str, tuple[int, ...]],
) -> None:
    own = {name: tensors.pop(name) for name in list(tensors) if name.partition(".")[0] == str(index)}
    state = PlainState({name.partition(".")[2]: tensor for name, tensor in own.items()}, numbers)
    try:
        plain_layers.restore(layer, state, described.rows, shapes)
    except TreeKVError as error:
        raise TreeKVError(f"its layer {index} {error}") from error
    if plain_layers.attends(layer) and layer.get_seq_length() != described.tokens:
        raise TreeKVError(f"layer {index} has read {layer.get_seq_length()} tokens, others {described.tokens}")


def _keys_and_values(name: str, tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    if not {f"{name}.keys", f"{name}.values"} <= tensors.keys():
        raise TreeKVError(f"the keys or values {name} are missing")
    keys, values = tensors.pop(f"{name}.keys"), tensors.pop(f"{name}.values")
    if keys.ndim != 4 or values.ndim != 4 or keys.shape[:3] != values.shape[:3]:
        raise TreeKVError(f"keys {name} have the shape {list(keys.shape)}, values {list(values.shape)}")
    if not (keys.is_floating_point() and values.is_floating_point()):
        raise TreeKVError(f"keys {name} are of the kind {keys.dtype}, values of {values.dtype}")
    return keys, values


# ---------------------------------------------------------------------- what is said of them


def _tokens_read(cache: Any) -> int:
    """Columns that every layer has read."""
    seen = [layer.get_seq_length() for layer in cache.layers if plain_layers.attends(layer)]
    waits = any(part.awaits_attention or part.waiting for layer in cache.layers for part in _parts(layer))
    if waits or any(tokens != seen[0] for tokens in seen):
        raise TreeKVError("the last forward pass was interrupted, so the cache cannot be saved; call cache.reset()")
    if not seen[0]:
        raise TreeKVError("the cache has read nothing yet, so there is nothing to save")
    return int(seen[0])


def _plain_notes(notes: Any) -> dict[str, Any]:
    try:
        return dict(cache_file.as_json(notes))
    except (TypeError, ValueError) as error:
        raise TreeKVError(f"notes must be what JSON can hold, by name, got {shortened(notes)}: {error}") from error


def _described(file: CacheFile) -> SavedCache:
    model, notes, tokens, rows = (file.about.get(key) for key in ("model", "notes", "tokens", "rows"))
    if not (isinstance(model, dict) and isinstance(notes, dict) and is_count(tokens) and is_count(rows)):
        raise file.damaged("it does not say what it holds")
    settings: Any = file.about.get("settings")
    config = TreeKVConfig.from_dict(settings, source=f"the settings in {file.name}")
    return SavedCache(config, str(model.get("name")), tokens, rows, notes)


def _check_model(file: CacheFile, own: Mapping[str, Any], model: nn.Module | None) -> None:
    """Refuse another model than the one whose keys and values these are."""
    saved = file.about["model"]
    name = f"{file.name} was saved with the model {str(saved.get('name'))!r}"
    for field in MODEL_FIELDS:
        if saved.get(field) != own[field]:
            raise TreeKVError(
                f"{name}, whose {field} is {shortened(saved.get(field))}; this model, {own['name']!r}, has "
                f"{shortened(own[field])}: load it with its own model"
            )
    weights = file.about.get("weights")
    if model is not None and weights is not None and weights != weights_fingerprint(model):
        raise TreeKVError(
            f"{name}; this model, {own['name']!r}, is of the same kind, but its weights are others: load it with its "
            "own model"
        )
