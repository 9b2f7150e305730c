"""One forward pass that passes the queries, keys and values of chosen layers to a function.

It uses a cache whose layers compute attention themselves: no hook, no patch, no attention matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from treekv.attention import supported
from treekv.attention.interface import AttentionCall, attach_handler
from treekv.cache.hybrid_layer import attention_of, with_attention
from treekv.errors import TreeKVError

# Takes the layer's number, q [query_heads, T, dim], k and v [kv_heads, T, dim], and the factor before the softmax; of
# several texts (`record_batch`) the tensors have a first dimension of one row a text.
# The tensors are views of the model's own: copy what must outlive the call.
Consumer = Callable[[int, Tensor, Tensor, Tensor, float], None]


class CacheLayer(NamedTuple):
    """The size of one layer of a model's cache.

    Attributes:
        number: the model's number of the layer.
        channels: elements per token: keys and values of all KV heads together.
        window: size of a sliding window, of which the cache keeps one token less; None with full attention.
    """

    number: int
    channels: int
    window: int | None


def record(model: nn.Module, ids: Sequence[int], layers: Sequence[int], consume: Consumer) -> list[CacheLayer]:
    """Run `model` once over `ids` and call `consume` for each of `layers` as it computes attention.

    Returns the sizes of a cache of this model, layer by layer, including layers that are not in `layers`.

    Raises TreeKVError for a layer that computed attention never or more than once, and for numbers that are not finite.
    An exception of `consume` ends the pass and leaves the model unchanged.
    """

    def first_row(number: int, q: Tensor, k: Tensor, v: Tensor, scaling: float) -> None:
        consume(number, q[0], k[0], v[0], scaling)

    return record_batch(model, torch.tensor([list(ids)]), layers, first_row)


def record_batch(model: nn.Module, ids: Tensor, layers: Sequence[int], consume: Consumer) -> list[CacheLayer]:
    """`record` of several texts of one length in one pass: `ids` [rows, T], q, k and v [rows, heads, T, dim]."""
    config: Any = model.config
    cache = DynamicCache(config=config)
    seen: list[int] = []

    def passed(number: int, *tensors: Any) -> None:
        check_new(number, seen)
        seen.append(number)
        consume(number, *tensors)

    windows = supported.windows_alone(config)
    for number in captured_layers(config):
        recording = RecordingLayer(number, passed if number in layers else None, windows.get(number))
        cache.layers[number] = with_attention(cache.layers[number], recording)
    with evaluating(model), torch.no_grad():  # not inference_mode: the captured tensors must be ordinary ones
        run_decoder(model, ids, cache)
    check_seen(layers, seen)
    return cache_layers(cache)


def captured_layers(config: Any) -> list[int]:
    """The model's numbers of the layers to capture: those with full attention, or in a model without any those with a
    sliding window, which see all of a text that is no longer (see `check_ids`).

    Raises:
        TreeKVError: as `supported.full_attention_layers` does, or their attention is more than a softmax over products
            of queries and keys.
    """
    supported.check(config)
    layers = sorted(supported.windows_alone(config)) or supported.full_attention_layers(config)
    more = supported.more_than_softmax(config)
    if more is not None:
        raise TreeKVError(
            f"this {supported.family(config)!r} model has {more}, which a TreeKV cache computes, but captures, "
            "simulations and predictions do not; run the cache itself (treekv eval, treekv generate)"
        )
    return layers


def predicted_layers(config: Any) -> list[int]:
    """The model's numbers of the layers that a cache compresses, of a model that can be captured.

    Raises:
        TreeKVError: as `captured_layers` does, or there is nothing to compress.
    """
    supported.full_attention_layers(config)
    return captured_layers(config)


def without_adapter(model: nn.Module) -> nn.Module:
    """The causal language model inside a wrapper of the library peft, with its adapters; any other model itself."""
    inner = getattr(model, "get_base_model", None)
    return inner() if callable(inner) else model


def decoder_of(model: nn.Module) -> Any:
    """A causal language model without its head."""
    model = without_adapter(model)
    return getattr(model, "base_model", model)


def run_decoder(model: nn.Module, ids: Tensor, cache: DynamicCache) -> Any:
    """The model over `ids` [rows, T] without its language-model head: logits would be larger than the capture."""
    decoder = decoder_of(model)
    device = next(model.parameters()).device
    return decoder(input_ids=ids.to(device), past_key_values=cache, use_cache=True)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """No dropout inside; afterwards every module is in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def check_new(number: int, seen: Sequence[int]) -> None:
    """Raise TreeKVError for a layer that has computed attention already."""
    if number in seen:
        raise TreeKVError(
            f"layer {number} of the model computes attention more than once; capture a model with one softmax "
            "attention a layer"
        )


def check_seen(layers: Sequence[int], seen: Sequence[int]) -> None:
    """Raise TreeKVError for a layer of `layers` that never computed attention."""
    silent = sorted(set(layers) - set(seen))
    if silent:
        raise TreeKVError(f"layers {silent} of the model never computed attention; it cannot be captured")


def cache_layers(cache: DynamicCache) -> list[CacheLayer]:
    """The sizes of the layers of a cache that has seen a text, without those of other kinds."""
    return [found for number, layer in enumerate(cache.layers) if (found := _kept(number, layer)) is not None]


def _kept(number: int, layer: Any) -> CacheLayer | None:
    layer = attention_of(layer)
    if isinstance(layer, RecordingLayer):
        return None if layer.channels is None else CacheLayer(number, layer.channels, layer.window)
    if isinstance(layer, DynamicSlidingWindowLayer) and layer.keys is not None and layer.values is not None:
        return CacheLayer(number, _channels(layer.keys, layer.values), int(layer.sliding_window))
    return None


def _channels(key: Tensor, value: Tensor) -> int:
    return key.shape[1] * key.shape[3] + value.shape[1] * value.shape[3]


class RecordingLayer(DynamicLayer):
    """A cache layer that stores nothing, computes attention and passes its inputs on."""

    def __init__(self, number: int, consume: Consumer | None, window: int | None = None) -> None:
        super().__init__()
        self.number = number
        self.consume = consume
        self.window = window  # of the layer whose place it takes
        self.channels: int | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        self.channels = _channels(key_states, value_states)
        return attach_handler(key_states, self), value_states

    def attend(self, call: AttentionCall) -> Tensor:
        query, key, value, scaling = call.query, call.key, call.value, call.scoring.scaling
        grouped = query.shape[1] != key.shape[1]
        output = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=grouped)
        self.check_finite(call, output)
        if self.consume is not None:
            self.consume(self.number, query, key, value, scaling)
        return output

    def check_finite(self, call: AttentionCall, output: Tensor) -> None:
        """Raise TreeKVError unless all that is captured is made of finite numbers.

        An infinite key can leave the output finite, so the output alone does not tell.
        """
        if not all(bool(x.detach().isfinite().all()) for x in (output, call.query, call.key, call.value)):
            raise TreeKVError(
                f"the attention of layer {self.number} is not made of finite numbers (the model computes in "
                f"{output.dtype}); load the model in torch.float32 or torch.bfloat16"
            )
