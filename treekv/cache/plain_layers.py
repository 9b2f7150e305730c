"""What layers that transformers builds keep: sliding windows, and states of linear attention and convolution."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from torch import Tensor
from transformers.cache_utils import CacheLayerMixin, DynamicLayer, DynamicSlidingWindowLayer

from treekv.cache.hybrid_layer import HybridLayer, attention_of
from treekv.errors import TreeKVError
from treekv.transformers_releases import DummyLayer, LinearAttentionAndSlidingWindowAttentionLayer, LinearAttentionLayer

#: Layers that have keys and values of their own, with their numbers.
ATTENDING: Final[dict[type, tuple[str, ...]]] = {
    DynamicLayer: (),
    DynamicSlidingWindowLayer: ("cumulative_length",),
    LinearAttentionAndSlidingWindowAttentionLayer: ("cumulative_length",),
}
_STATES: Final = ("conv", "recurrent")


class PlainState(NamedTuple):
    """Tensors of a layer by name, and numbers by name that JSON can hold."""

    tensors: dict[str, Tensor]
    numbers: dict[str, Any]


def check_kind(index: int, layer: Any, compressed: bool) -> None:
    """Raise a `TreeKVError` for a layer that cannot be kept."""
    if not compressed and type(layer) not in (*ATTENDING, LinearAttentionLayer, HybridLayer, DummyLayer):
        raise TreeKVError(f"layer {index} is a {type(layer).__name__} of transformers, which cannot be saved")


def state_of(layer: Any) -> PlainState:
    """What a layer keeps beside what TreeKV has compressed."""
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    if type(layer) in ATTENDING:
        tensors |= {"keys": layer.keys, "values": layer.values}
        numbers |= {name: getattr(layer, name) for name in ATTENDING[type(layer)]}
    if isinstance(layer, LinearAttentionLayer):
        for kind in _STATES:
            held = getattr(layer, f"{kind}_states")
            tensors |= {f"{kind}{number}": state for number, state in held.items() if state is not None}
        numbers["previous"] = [bool(layer.has_previous_state[n]) for n in range(layer.number_of_states)]
    return PlainState(tensors, numbers)


def restore(layer: Any, state: PlainState, rows: int, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Give a new layer what `state_of` returned, of a batch of so many rows; `shapes`, as far as they are known, are
    those of a row of its states.

    Raises:
        TreeKVError: it is not what such a layer keeps; the sentence goes on after "layer 3".
    """
    tensors, numbers = state
    if any(tensor.shape[:1] != (rows,) or not tensor.is_floating_point() for tensor in tensors.values()):
        raise TreeKVError("has tensors of another batch or kind")
    right = set(ATTENDING.get(type(layer), ()))
    if isinstance(layer, LinearAttentionLayer):
        right |= {"previous"}
    if not isinstance(numbers, dict) or numbers.keys() != right:
        raise TreeKVError("has other numbers than such a layer")
    if type(layer) in ATTENDING:
        keys, values = tensors.pop("keys", None), tensors.pop("values", None)
        if keys is None or values is None or keys.ndim != 4 or keys.shape[:3] != values.shape[:3]:
            raise TreeKVError("has lost its keys or values")
        layer.lazy_initialization(keys, values)
        layer.keys, layer.values = keys, values
        for name in ATTENDING[type(layer)]:
            if type(numbers[name]) is not int or numbers[name] < keys.shape[2]:
                raise TreeKVError("has a number that is none of tokens")
            setattr(layer, name, numbers[name])
    if isinstance(layer, LinearAttentionLayer):
        _check_shapes(tensors, shapes)
        _restore_linear(layer, tensors, numbers["previous"])
    if tensors:
        raise TreeKVError(f"has tensors that it does not need, such as {next(iter(tensors))!r}")


def _check_shapes(tensors: dict[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    for name, right in shapes.items():
        if name in tensors and tensors[name].shape[1:] != right:
            got = list(tensors[name].shape[1:])
            raise TreeKVError(f"has a state of the shape {got} for each row, where its model has {list(right)}")


def _restore_linear(layer: Any, tensors: dict[str, Tensor], previous: Any) -> None:
    if not isinstance(previous, list) or [type(each) for each in previous] != [bool] * layer.number_of_states:
        raise TreeKVError("has another number of states")
    for number, has_previous in enumerate(previous):
        found = {kind: tensors.pop(f"{kind}{number}", None) for kind in _STATES}
        for kind, state in found.items():
            if state is None:
                continue
            if state.ndim < 2:
                raise TreeKVError(f"has a state of the shape {list(state.shape)}")
            like: Any = {f"{kind}_states": state, "state_idx": number}
            LinearAttentionLayer.lazy_initialization(layer, **like)
            getattr(layer, f"{kind}_states")[number].copy_(state)
        layer.has_previous_state[number] = has_previous


def attends(layer: Any) -> bool:
    """Whether a layer counts the tokens that it has read."""
    return isinstance(layer, CacheLayerMixin) and not isinstance(attention_of(layer), DummyLayer)
