"""Which models can be compressed: refusals by name, from the configuration, before any work."""

from __future__ import annotations

from typing import Any

from transformers import AutoModelForCausalLM

from treekv import attention
from treekv.errors import TreeKVError

#: Attention that adds a learned logit to the softmax: weights of the cached tokens alone do not add up to one.
SINK_LOGITS = frozenset(["gpt_oss"])


def check(config: Any) -> None:
    """Raise a `TreeKVError` unless TreeKV can compute the attention of a model with this configuration.

    Whether its rotary positions can be renumbered is a question of its own, see `treekv.rotary`.
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
    if family in SINK_LOGITS:
        raise TreeKVError(
            f"models of the family {family!r} have a learned sink logit per head, which TreeKV does not compute"
        )
    implementation = getattr(config, "_attn_implementation", None)
    if implementation != attention.NAME:
        raise TreeKVError(
            f"the model's attention implementation is {implementation!r}, but a TreeKV cache needs 'treekv': "
            "call model.set_attn_implementation('treekv') first"
        )
