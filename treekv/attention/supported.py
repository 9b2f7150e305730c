"""Which models can be compressed: refusals by name, from the configuration, before any work.

`load_model`, captures, predictions and the cache all ask here.
"""

from __future__ import annotations

from typing import Any

import transformers
from transformers import AutoModelForCausalLM
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer
from transformers.models.auto import modeling_auto

from treekv.attention import interface
from treekv.errors import TreeKVError
from treekv.transformers_releases import (
    HAS_STATES,
    DummyLayer,
    DynamicIndexedLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionAndSlidingWindowAttentionLayer,
    LinearAttentionLayer,
    has_states,
    layer_configs,
)

#: Families whose full attention has a learned sink logit per head, see `treekv.attention.softmax.Scoring`.
SINKS = frozenset(["flint", "gpt_oss", "granite_swa", "granitemoe_swa"])

#: Families that use the attention interface and still cannot be compressed, and what they do.
REFUSED = {
    "bigbird_pegasus": "mark their attention as bidirectional",
    "diffllama": "attend twice in every layer and take the difference",
    "doge": "have a learned mask in attention",
    "git": "compute the attention of text without transformers' attention interface",
    "inkling2_text": "have a learned bias of positions in attention",
    "inkling_text": "have a learned bias of positions in attention",
    "jetmoe": "repeat cached keys and values for each expert",
    "minimax": "accept no other cache than their own",
}

#: Kinds of layers that are compressed, and those that stay as transformers builds them.
FULL = (DynamicLayer, LinearAttentionAndFullAttentionLayer)
LEFT = (
    DynamicSlidingWindowLayer,
    LinearAttentionLayer,
    LinearAttentionAndSlidingWindowAttentionLayer,
    DummyLayer,
)


def check(config: Any) -> None:
    """Raise a `TreeKVError` unless TreeKV can compute the attention of a model with this configuration.

    Whether its rotary positions can be renumbered is a question of its own, see `treekv.attention.model_rotary`.
    """
    check_family(config)
    _check_implementation(config.get_text_config(decoder=True))


def check_family(config: Any) -> None:
    """`check` of a model that is not loaded yet, and so has no attention implementation."""
    config = config.get_text_config(decoder=True)
    name = family(config)
    if getattr(config, "is_encoder_decoder", False):
        raise TreeKVError(f"{name!r} is an encoder-decoder model; TreeKV compresses causal language models")
    model_class: Any = AutoModelForCausalLM._model_mapping.get(type(config), None)
    if model_class is None:
        raise TreeKVError(f"{name!r} is not a causal language model; TreeKV compresses causal language models")
    # Whether its code calls the interface; a flag of its own says this of some families only.
    if not model_class._can_set_attn_implementation():
        raise TreeKVError(
            f"models of the family {name!r} compute attention themselves, without transformers' attention "
            "interface, so their cache cannot be compressed"
        )
    both_ways = getattr(config, "use_bidirectional_attention", None)
    if both_ways not in (None, False, "vision") or getattr(config, "is_causal", True) is False:
        raise TreeKVError(
            f"this {name!r} model attends in both directions, but a cache needs tokens that see only earlier ones "
            "(use_bidirectional_attention False)"
        )
    # Encoders such as BERT can be told to be decoders; unless they are, every token sees all others.
    encoders = {*modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES, "bert-generation"}
    if name in encoders and not getattr(config, "is_decoder", False):
        raise TreeKVError(f"this {name!r} model is an encoder; TreeKV compresses causal language models")
    if name in REFUSED:
        raise TreeKVError(f"models of the family {name!r} {REFUSED[name]}, so their cache cannot be compressed")
    if not HAS_STATES and has_states(config.get_text_config(decoder=True)):
        raise TreeKVError(
            f"some layers of this {name!r} model have a state of linear attention or convolution, for which caches of "
            f"transformers {transformers.__version__} have no place; install a newer release"
        )
    _check_layers(config)


def followed_layers(config: Any) -> set[int]:
    """The numbers of layers to whose keys and values later layers attend, instead of to some of their own."""
    modes = getattr(config.get_text_config(decoder=True), "kv_sharing_modes", None) or ()
    return {number for number, mode in enumerate(modes) if mode == "store"} if "reuse" in modes else set()


def latent_layers(config: Any) -> set[int]:
    """The numbers of layers that cache latents, from which keys and values are computed, as in DeepSeek-V2 and V3."""
    each = enumerate(layer_configs(config.get_text_config(decoder=True)))
    return {number for number, layer in each if getattr(layer, "kv_lora_rank", None) is not None}


def more_than_softmax(config: Any) -> str | None:
    """What the model has beside layers of one softmax over products of queries and keys, in words, if anything."""
    config = config.get_text_config(decoder=True)
    if followed_layers(config):
        return "layers that attend to the keys and values of earlier ones"
    if latent_layers(config):
        return "latents from which keys and values are computed"
    if getattr(config, "attn_logit_softcapping", None) is not None:
        return "soft-capped attention logits"
    return "a learned sink logit per head" if family(config) in SINKS else None


def full_attention_layers(config: Any) -> list[int]:
    """The model's numbers of the layers with full attention, which are the ones to capture and to compress; other
    layers of hybrid models (with a sliding window, linear attention, convolution or no attention) stay as transformers
    builds them.

    Raises:
        TreeKVError: as `check` does, or there is no such layer.
    """
    check(config)
    full = [number for number, layer in enumerate(_cache_layers(config)) if type(layer) in FULL]
    if not full:
        raise TreeKVError(nothing_to_gain(config))
    return full


def windows_alone(config: Any) -> dict[int, int]:
    """Of a model in which no layer has full attention: the numbers of the layers with a sliding window, and its tokens;
    none of any other model."""
    layers = _cache_layers(config)
    if any(type(layer) in FULL for layer in layers):
        return {}
    return {n: int(layer.sliding_window) for n, layer in enumerate(layers) if type(layer) is DynamicSlidingWindowLayer}


def nothing_to_gain(config: Any) -> str:
    """Why a model without full attention is refused."""
    return (
        f"no layer of this {family(config)!r} model has full attention (a cache that grows): there is nothing to "
        "gain, so use it with transformers' own cache"
    )


def _check_layers(config: Any) -> None:
    """Refuse layers whose cache is of another kind."""
    layers = _cache_layers(config)
    others: dict[str, list[int]] = {}
    for number, layer in enumerate(layers):
        if type(layer) not in FULL + LEFT:
            others.setdefault(_kind(layer), []).append(number)
    for kind, numbers in others.items():
        which = f"layer {numbers[0]}" if len(numbers) == 1 else f"{len(numbers)} of the {len(layers)} layers"
        raise TreeKVError(
            f"{which} of this {family(config)!r} model {'has' if len(numbers) == 1 else 'have'} {kind}, which TreeKV "
            "does not compress"
        )


def _cache_layers(config: Any) -> list[Any]:
    """Those of transformers' own cache."""
    try:
        return list(DynamicCache(config=config).layers)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise TreeKVError(f"transformers can make no cache for this {family(config)!r} model: {error}") from error


def _kind(layer: Any) -> str:
    if isinstance(layer, DynamicIndexedLayer):
        return "sparse attention with an index of its own"
    return f"a cache of another kind ({type(layer).__name__})"


def family(config: Any) -> str:
    """The name of the model's family."""
    return str(getattr(config.get_text_config(decoder=True), "model_type", "?"))


def _check_implementation(config: Any) -> None:
    implementation = getattr(config, "_attn_implementation", None)
    if implementation != interface.NAME:
        raise TreeKVError(
            f"the model's attention implementation is {implementation!r}, not {interface.NAME!r}: load it with "
            f"treekv.load_model, or call model.set_attn_implementation({interface.NAME!r}) first"
        )
