"""Which models can be compressed: refusals by name, from the configuration, before any work."""

from __future__ import annotations

from typing import Any

from transformers import AutoModelForCausalLM
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

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


def check(config: Any) -> None:
    """Raise a `TreeKVError` unless TreeKV can compute the attention of a model with this configuration.

    Whether its rotary positions can be renumbered is a question of its own, see `treekv.attention.rotary`.
    """
    family = getattr(config, "model_type", "?")
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
    _check_implementation(config)


def full_attention_layers(config: Any) -> list[int]:
    """The model's numbers of the layers with full attention, which are the ones to capture and to compress; in hybrid
    models layers with a sliding window stay as transformers builds them.

    Raises:
        TreeKVError: another attention implementation than "treekv", a layer of another kind, or no such layer.
    """
    _check_implementation(config)
    family, layers = getattr(config, "model_type", "?"), DynamicCache(config=config).layers
    for layer in layers:
        if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer):
            raise TreeKVError(
                f"the model family {family!r} has cache layers of type {type(layer).__name__}; TreeKV knows full and "
                "sliding attention"
            )
    full = [number for number, layer in enumerate(layers) if type(layer) is DynamicLayer]
    if not full:
        raise TreeKVError(
            f"every layer of this {family} model has a sliding window already; there is no full attention to compress"
        )
    return full


def _check_implementation(config: Any) -> None:
    implementation = getattr(config, "_attn_implementation", None)
    if implementation != interface.NAME:
        raise TreeKVError(
            f"the model's attention implementation is {implementation!r}, not {interface.NAME!r}: load it with "
            f"treekv.load_model, or call model.set_attn_implementation({interface.NAME!r}) first"
        )
