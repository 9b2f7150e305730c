"""How the layers of a model rotate their keys: its family's convention, with the frequencies of its configuration.

The conventions of all families were measured on tiny models by `python -m tests.families.measure`, which writes them to
`rotary_families`; the frequencies are those that the family's own embedding computes from a configuration.
"""

from __future__ import annotations

import copy
import functools
import importlib
import inspect
import json
import logging
import sys
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.cache_utils import DynamicCache

from treekv.attention.convention import Convention
from treekv.attention.rotary import Rotary
from treekv.attention.rotary_families import CONVENTIONS
from treekv.errors import TreeKVError
from treekv.transformers_releases import layer_configs

ADVICE: Final = "; use positions='original'"

#: Scalings whose angles do not depend on the length of the input.
FIXED_SCALINGS: Final = frozenset(["default", "linear", "llama3", "proportional", "yarn"])

#: Families whose queries depend on their positions beyond rotation, and how.
BY_POSITION: Final = {"beam": "its layers without rotary positions scale queries by their true positions"}

# Why models do not rotate as their families do, by the content of their configurations.
_refuted: dict[str, str] = {}


def layer_rotaries(config: Any, positions: str = "rank") -> list[Rotary | None]:
    """The rotary embedding of each layer of a model with this text configuration; None for a layer without positions.

    Layers that rotate alike share one. `positions` is the setting that needs them.

    Raises:
        TreeKVError: the model's positions cannot be changed exactly.
    """
    family = str(getattr(config, "model_type", "?"))
    reason = refuted(config) or BY_POSITION.get(family)
    convention = CONVENTIONS.get(family)
    if reason is None and convention is None:
        reason = "its keys are not known to be rotated by their positions alone"
    if reason is None:
        assert convention is not None
        try:
            return rotaries_by(convention, config)
        except TreeKVError as error:
            reason = str(error)
    raise TreeKVError(f"positions={positions!r} is not possible for this {family!r} model: {reason}{ADVICE}")


def rotaries_by(convention: Convention, config: Any) -> list[Rotary | None]:
    """`layer_rotaries` by a given convention.

    Raises:
        TreeKVError: its angles change with the length of the input, or the frequencies are not found.
    """
    layers = len(DynamicCache(config=config).layers)
    rotating = [convention.rotates(config, number) for number in range(layers)]
    if not any(rotating):
        return [None] * layers
    bases = getattr(config, "layer_rope_theta", None) or [None] * layers  # of each layer, 0 for no positions
    by_base = {base: _frequencies(config, base) for base in dict.fromkeys(bases)}
    made: dict[tuple[float | None, str | None, int], Rotary] = {}
    rotaries: list[Rotary | None] = []
    for number, rotates in enumerate(rotating):
        base = bases[number]
        frequencies = by_base[base]
        kind = None if None in frequencies else _layer_type(config, number)
        # Types of layers without frequencies have no positions.
        if not rotates or kind not in frequencies or base == 0:
            rotaries.append(None)
            continue
        key = base, kind, _head_dim(config, number)
        if key not in made:
            made[key] = Rotary(convention.sign * frequencies[kind], key[2], convention.pairs, convention.part)
        rotaries.append(made[key])
    return rotaries


def query_rotaries(config: Any) -> list[Rotary | None]:
    """How the queries of each layer of a model with this text configuration can be moved; None for layers without
    rotary positions, and so for all of a model that has learned positions or none.

    Raises:
        TreeKVError: it has a rotary embedding that is not known here.
    """
    if not hasattr(config, "rope_parameters"):
        return [None] * len(DynamicCache(config=config).layers)
    return layer_rotaries(config)


def usable_positions(config: Any, asked: str | None) -> str:
    """The positions to use for a model with this text configuration.

    `asked` is the setting; None asks for "rank" where that is possible and says on stderr where it is not.

    Raises:
        TreeKVError: what is asked for is not possible.
    """
    if asked == "original":
        return asked
    try:
        layer_rotaries(config, asked or "rank")
    except TreeKVError as error:
        if asked is not None:
            raise
        reason = str(error).removesuffix(ADVICE)
        _say(f"positions='original' is used, since {reason}")
        return "original"
    return asked or "rank"


def refute(config: Any, reason: str) -> None:
    """Remember that a model with this text configuration does not rotate as its family does, and why that is said."""
    _refuted[_content(config)] = reason


def refuted(config: Any) -> str | None:
    """Why a model with this text configuration does not rotate as its family does, if that was seen."""
    return _refuted.get(_content(config)) if _refuted else None


def _content(config: Any) -> str:
    fields = config.to_dict()
    fields.pop("dtype", None)
    return json.dumps(fields, sort_keys=True, default=str)


@functools.cache
def _say(line: str) -> None:
    """One line on stderr, unless the program handles the logger "treekv" itself; once."""
    logging.getLogger("treekv").warning(line)


def _frequencies(config: Any, base: float | None = None) -> dict[str | None, Tensor]:
    """float32 [rotary_dim / 2] by type of layer, under None if there is one for all; of another base if it is given."""
    if base:
        config = copy.deepcopy(config)
        config.rope_parameters = {**config.rope_parameters, "rope_theta": base}
    embedding = _embedding(config)
    found = {name: tensor for name, tensor in embedding.named_buffers() if not name.endswith("original_inv_freq")}
    by_type: dict[str | None, Tensor] = {}
    for name, tensor in found.items():
        if name.endswith("inv_freq"):
            by_type[name.removesuffix("inv_freq").removesuffix("_") or None] = tensor.float()
    rope_type = getattr(embedding, "rope_type", "default")
    for kind in by_type:
        scaling = rope_type.get(kind, "default") if isinstance(rope_type, dict) else rope_type
        if scaling not in FIXED_SCALINGS:
            raise TreeKVError(f"the angles of its rotary scaling {scaling!r} change with the length of the input")
    return by_type


def _embedding(config: Any) -> nn.Module:
    """The family's own rotary embedding, made from the configuration."""
    model = AutoModelForCausalLM._model_mapping.get(type(config), None)
    if model is None:  # a text part that is no model of its own
        module = importlib.import_module(type(config).__module__.replace(".configuration_", ".modeling_"))
    else:
        module = sys.modules[model.__module__]
    classes: list[Any] = [
        each
        for name, each in inspect.getmembers(module, inspect.isclass)
        if name.endswith("RotaryEmbedding") and each.__module__ == module.__name__
        if "Vision" not in name and "Audio" not in name
    ]
    if len(classes) != 1:
        raise TreeKVError(f"its code has {'several rotary embeddings' if classes else 'no rotary embedding'}")
    try:
        with torch.device("cpu"):
            embedding: nn.Module = classes[0](config)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise TreeKVError(f"its rotary embedding cannot be made from its configuration: {error}") from error
    return embedding


def _layer_type(config: Any, number: int) -> str | None:
    types = getattr(config, "layer_types", None) or []
    return types[number] if number < len(types) else None


def _head_dim(config: Any, number: int) -> int:
    layers = layer_configs(config)
    layer = layers[number] if number < config.num_hidden_layers else config
    return int(getattr(layer, "head_dim", None) or layer.hidden_size // layer.num_attention_heads)
