"""Which models can be compressed: refusals by name, from the configuration, before any work.

`load_model`, captures, predictions and the cache all ask here.
"""

from __future__ import annotations

from typing import Any

from transformers import AutoModelForCausalLM
from transformers.cache_utils import (
    DummyLayer,
    DynamicCache,
    DynamicIndexedLayer,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionCacheLayerMixin,
)
from transformers.models.auto import modeling_auto

from treekv.attention import interface
from treekv.errors import TreeKVError

#: Families whose attention is more than a softmax over queries and keys, and what it has beside them. A sink logit
#: takes part in the softmax, so the weights of the cached tokens alone do not add up to one (mimo_v2_flash has it in
#: its sliding layers only).
NOT_PLAIN = {
    "deepseek_v4": "a learned sink logit per head",
    "doge": "a learned mask",
    "flint": "a learned sink logit per head",
    "gpt_oss": "a learned sink logit per head",
    "granite_swa": "a learned sink logit per head",
    "granitemoe_swa": "a learned sink logit per head",
    "hy_v4": "a learned sink logit per head",
    "mimo_v2_flash": "a learned sink logit per head",
}

#: Families whose attention is not that of the keys and values that they cache, and what it is instead.
OTHER_KEYS = {
    "diffllama": "attend twice in every layer and take the difference",
    "jetmoe": "repeat cached keys and values for each expert",
}


def check(config: Any) -> None:
    """Raise a `TreeKVError` unless TreeKV can compute the attention of a model with this configuration.

    Whether its rotary positions can be renumbered is a question of its own, see `treekv.attention.rotary`.
    """
    check_family(config)
    _check_implementation(config.get_text_config(decoder=True))


def check_family(config: Any) -> None:
    """`check` of a model that is not loaded yet, and so has no attention implementation."""
    config = config.get_text_config(decoder=True)
    family = _family(config)
    if getattr(config, "is_encoder_decoder", False):
        raise TreeKVError(f"{family!r} is an encoder-decoder model; TreeKV compresses causal language models")
    model_class = AutoModelForCausalLM._model_mapping.get(type(config), None)
    if model_class is None:
        raise TreeKVError(f"{family!r} is not a causal language model; TreeKV compresses causal language models")
    if not getattr(model_class, "_supports_attention_backend", False):
        raise TreeKVError(
            f"models of the family {family!r} compute attention themselves, without transformers' attention "
            "interface, so their cache cannot be compressed"
        )
    if getattr(config, "attn_logit_softcapping", None) is not None:
        raise TreeKVError(
            f"this {family!r} model caps its attention logits (attn_logit_softcapping "
            f"{config.attn_logit_softcapping}), which TreeKV does not compute"
        )
    if family in NOT_PLAIN:
        raise TreeKVError(
            f"models of the family {family!r} have {NOT_PLAIN[family]} in attention, which TreeKV does not compute"
        )
    both_ways = getattr(config, "use_bidirectional_attention", None)
    if both_ways not in (None, False, "vision") or getattr(config, "is_causal", True) is False:
        raise TreeKVError(
            f"this {family!r} model attends in both directions, but a cache needs tokens that see only earlier ones "
            "(use_bidirectional_attention False)"
        )
    # Encoders such as BERT can be told to be decoders; unless they are, every token sees all others.
    encoders = {*modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES, "bert-generation"}
    if family in encoders and not getattr(config, "is_decoder", False):
        raise TreeKVError(f"this {family!r} model is an encoder; TreeKV compresses causal language models")
    if family in OTHER_KEYS:
        raise TreeKVError(f"models of the family {family!r} {OTHER_KEYS[family]}, which TreeKV does not compute")
    if any(getattr(layer, "kv_lora_rank", None) is not None for layer in config.per_layer_config):
        raise TreeKVError(
            f"this {family!r} model caches latents from which keys and values are computed (it has a kv_lora_rank), "
            "which TreeKV does not compress"
        )
    _check_layers(config)


def full_attention_layers(config: Any) -> list[int]:
    """The model's numbers of the layers with full attention, which are the ones to capture and to compress; in hybrid
    models layers with a sliding window stay as transformers builds them.

    Raises:
        TreeKVError: as `check` does, or there is no such layer.
    """
    check(config)
    full = [number for number, layer in enumerate(_cache_layers(config)) if type(layer) is DynamicLayer]
    if not full:
        raise TreeKVError(
            f"every layer of this {_family(config)!r} model has a sliding window already; there is no full attention "
            "to compress, so use it with transformers' own cache"
        )
    return full


def _check_layers(config: Any) -> None:
    """Refuse layers whose cache is of another kind."""
    layers = _cache_layers(config)
    others: dict[str, list[int]] = {}
    for number, layer in enumerate(layers):
        if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer):
            others.setdefault(_kind(layer, config), []).append(number)
    for kind, numbers in others.items():
        which = f"layer {numbers[0]}" if len(numbers) == 1 else f"{len(numbers)} of the {len(layers)} layers"
        raise TreeKVError(
            f"{which} of this {_family(config)!r} model {'has' if len(numbers) == 1 else 'have'} {kind}; TreeKV knows "
            "full and sliding attention"
        )


def _cache_layers(config: Any) -> list[Any]:
    """Those of transformers' own cache."""
    try:
        return list(DynamicCache(config=config).layers)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise TreeKVError(f"transformers can make no cache for this {_family(config)!r} model: {error}") from error


def _kind(layer: Any, config: Any) -> str:
    if isinstance(layer, DummyLayer):
        shared = "reuse" in (getattr(config, "kv_sharing_modes", None) or ())
        return "the keys and values of an earlier layer" if shared else "no attention"
    if isinstance(layer, LinearAttentionCacheLayerMixin):
        return "a state of linear attention or convolution"
    if isinstance(layer, DynamicIndexedLayer):
        return "sparse attention with an index of its own"
    return f"a cache of another kind ({type(layer).__name__})"


def _family(config: Any) -> str:
    return str(getattr(config.get_text_config(decoder=True), "model_type", "?"))


def _check_implementation(config: Any) -> None:
    implementation = getattr(config, "_attn_implementation", None)
    if implementation != interface.NAME:
        raise TreeKVError(
            f"the model's attention implementation is {implementation!r}, not {interface.NAME!r}: load it with "
            f"treekv.load_model, or call model.set_attn_implementation({interface.NAME!r}) first"
        )
