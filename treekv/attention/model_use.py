"""What a cache will do with a model, layer by layer, from its configuration alone."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from transformers.cache_utils import DynamicCache, DynamicSlidingWindowLayer

from treekv.attention import supported
from treekv.attention.model_rotary import ADVICE, layer_rotaries
from treekv.errors import TreeKVError
from treekv.transformers_releases import (
    DummyLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionLayer,
    layer_configs,
)


class LayerUse(NamedTuple):
    """What becomes of a layer.

    Attributes:
        number: the model's number of the layer.
        kind: what it is, in words.
        compressed: whether it is compressed; otherwise it stays as transformers builds it.
        rotates: whether its positions are changed when tokens are renumbered.
        bytes_per_token: of its keys and values, in the type of the model's weights; None unless it is compressed.
    """

    number: int
    kind: str
    compressed: bool
    rotates: bool
    bytes_per_token: int | None


class ModelUse(NamedTuple):
    """What becomes of a model.

    Attributes:
        family: its name in transformers.
        refused: why it cannot be compressed; None if it can.
        positions: those that a cache uses unless they are given, "rank" or "original"; None for a refused model.
        reason: why they are not "rank", if so.
        dtype: of the model's weights, and so of keys and values.
        layers: each layer of its cache; empty where transformers makes none.
    """

    family: str
    refused: str | None
    positions: str | None
    reason: str | None
    dtype: str
    layers: list[LayerUse]

    @property
    def bytes_per_token(self) -> int:
        """Of the keys and values of all layers that are compressed."""
        return sum(layer.bytes_per_token or 0 for layer in self.layers if layer.compressed)


def model_use(model_config: Any) -> ModelUse:
    """What a cache will do with a model of this configuration."""
    config = model_config.get_text_config(decoder=True)
    family, dtype = supported.family(config), getattr(config, "dtype", None) or torch.float32
    refused, positions, reason = None, "rank", None
    try:
        supported.check_family(config)
    except TreeKVError as error:
        refused = str(error)
    try:
        layers = DynamicCache(config=config).layers
    except Exception:  # of any kind; then it is refused already
        layers = []
    full = [type(layer) in supported.FULL for layer in layers]
    if refused is None and not any(full):
        refused = supported.nothing_to_gain(config)
    rotates = [False] * len(layers)
    if refused is None:
        try:
            rotates = [rotary is not None for rotary in layer_rotaries(config)]
        except TreeKVError as error:
            positions, reason = "original", str(error).removesuffix(ADVICE)
    each = [
        LayerUse(
            number,
            _kind(config, number, layer),
            refused is None and compressed,
            compressed and rotates[number],
            _bytes_per_token(config, number, dtype.itemsize) if refused is None and compressed else None,
        )
        for number, (layer, compressed) in enumerate(zip(layers, full, strict=True))
    ]
    name = str(dtype).removeprefix("torch.")
    return ModelUse(family, refused, None if refused else positions, reason, name, each)


def _kind(config: Any, number: int, layer: Any) -> str:
    if number in supported.latent_layers(config):
        return "latent attention"
    if isinstance(layer, DynamicSlidingWindowLayer):
        return f"attention to the last {layer.sliding_window:,} tokens"
    if isinstance(layer, DummyLayer):
        modes = getattr(config, "kv_sharing_modes", None) or ()
        return "attention to what an earlier layer keeps" if "reuse" in modes else "no attention"
    if isinstance(layer, LinearAttentionAndFullAttentionLayer) and type(layer) in supported.FULL:
        return "full attention, and a state"
    if isinstance(layer, LinearAttentionLayer):
        return "a state of linear attention or convolution"
    if type(layer) in supported.FULL:
        return "full attention"
    return f"a cache of another kind ({type(layer).__name__})"


def _bytes_per_token(config: Any, number: int, itemsize: int) -> int:
    layers = layer_configs(config)
    own = layers[number] if number < len(layers) else layers[-1]
    if number in supported.latent_layers(config):
        return int((own.kv_lora_rank + own.qk_rope_head_dim) * itemsize)
    heads = getattr(own, "num_key_value_heads", None) or own.num_attention_heads
    if getattr(own, "multi_query", False):  # GPT-BigCode has no field for it
        heads = 1
    key = getattr(own, "head_dim", None) or own.hidden_size // own.num_attention_heads
    value = getattr(own, "v_head_dim", None) or key
    return int(heads * (key + value) * itemsize)
