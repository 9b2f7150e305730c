"""A tiny random model of every family of `AutoModelForCausalLM`, from its own configuration class.

`build(name)` makes it; `NOT_BUILT` says which cannot be made, and why. Sizes are set wherever a configuration has a
field of that name, and `CHANGES` has what a family needs beside.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto

from tests import tiny
from tests.families.changes import CHANGES, NOT_BUILT

__all__ = ["NAMES", "NOT_BUILT", "build", "configuration"]

#: All model types that transformers loads as causal language models.
NAMES = tuple(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)

LAYERS, HEADS, KV_HEADS, HEAD_DIM, WIDTH, WINDOW = 2, 4, 2, 16, 64, 16

_SIZES: dict[str, Any] = {
    **dict.fromkeys(["vocab_size", "unpadded_vocab_size"], tiny.VOCABULARY),
    **dict.fromkeys(["vocab_size_per_layer_input"], tiny.VOCABULARY),
    **dict.fromkeys(["hidden_size", "d_model", "n_embd", "embedding_size", "word_embed_proj_dim", "emb_dim"], WIDTH),
    **dict.fromkeys(["embedding_dim", "lru_width", "attention_hidden_size"], WIDTH),
    **dict.fromkeys(["intermediate_size", "ffn_dim", "d_inner", "n_inner", "decoder_ffn_dim", "encoder_ffn_dim"], 96),
    **dict.fromkeys(["moe_intermediate_size", "shared_expert_intermediate_size", "shared_intermediate_size"], 32),
    **dict.fromkeys(
        ["intermediate_size_mlp", "dense_intermediate_size", "ffn_hidden_size", "expert_ffn_hidden_size"], 48
    ),
    **dict.fromkeys(["num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers"], LAYERS),
    **dict.fromkeys(["encoder_layers", "num_decoder_layers", "num_encoder_layers"], LAYERS),
    **dict.fromkeys(["num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"], HEADS),
    **dict.fromkeys(["encoder_attention_heads", "swa_num_attention_heads", "attention_heads"], HEADS),
    **dict.fromkeys(["num_decoder_attention_heads", "num_encoder_attention_heads"], HEADS),
    **dict.fromkeys(["num_key_value_heads", "swa_num_key_value_heads", "num_kv_heads", "num_query_groups"], KV_HEADS),
    **dict.fromkeys(["head_dim", "swa_head_dim", "global_head_dim", "attention_head_dim", "kv_channels"], HEAD_DIM),
    **dict.fromkeys(["num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"], 4),
    **dict.fromkeys(["num_experts_per_tok", "num_experts_per_token", "moe_topk"], 2),
    **dict.fromkeys(["n_group", "topk_group", "num_expert_group", "first_k_dense_replace"], 1),
    **dict.fromkeys(["n_shared_experts", "num_shared_experts", "moe_num_shared_experts"], 1),
    **dict.fromkeys(["sliding_window", "sliding_window_size", "attention_window_size", "window_size"], WINDOW),
    **dict.fromkeys(["local_attention", "attention_chunk_size"], WINDOW),
    **dict.fromkeys(["q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "v_head_dim"], HEAD_DIM),
    "qk_rope_head_dim": 8,
    **dict.fromkeys(["max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "context_length"], 8192),
    **dict.fromkeys(["linear_num_key_heads", "linear_num_value_heads", "linear_num_heads", "mamba_n_heads"], 4),
    **dict.fromkeys(["linear_key_head_dim", "linear_value_head_dim", "linear_head_dim", "mamba_d_head"], 16),
    **dict.fromkeys(["state_size", "ssm_state_size", "mamba_d_state"], 8),
    **dict.fromkeys(["mamba_chunk_size", "chunk_size"], 8),
    **dict.fromkeys(["mamba_n_groups", "n_groups", "mamba_ngroups"], 1),
    **dict.fromkeys(["hidden_size_per_layer_input"], 8),
    **dict.fromkeys(["index_n_heads", "index_topk"], 4),
    "index_head_dim": 16,
    "num_kv_shared_layers": 0,
    "type_vocab_size": 2,
    **dict.fromkeys(["bos_token_id", "eos_token_id", "pad_token_id"], None),
}


def usual_configuration(name: str) -> PreTrainedConfig:
    """The configuration of the family `name` as transformers makes it, of usual size."""
    with _quiet():
        return AutoConfig.for_model(name)


def configuration(name: str, **changes: Any) -> PreTrainedConfig:
    """The configuration of a tiny model of the family `name`, with two layers of each kind that the family has;
    `changes` are fields of its text part."""
    with _quiet():
        usual = usual_configuration(name)
        text = usual if usual.is_encoder_decoder else usual.get_text_config(decoder=True)
        parts = {
            key: part for key in usual.sub_configs if isinstance(part := getattr(usual, key, None), PreTrainedConfig)
        }
        own = CHANGES.get(name, {}) | CHANGES.get(text.model_type, {})
        sizes = _sizes_of(text) | own.get("fields", {}) | changes
        others = {key: _sizes_of(part) for key, part in parts.items() if part is not text} | own.get("parts", {})
        place = next((key for key, part in parts.items() if part is text), None)
        return AutoConfig.for_model(name, **(others | (sizes if place is None else {place: sizes})))


def _sizes_of(usual: PreTrainedConfig) -> dict[str, Any]:
    """Small values for the fields that a configuration has, given its usual one."""
    names = {*usual.to_dict(), *(key for key in _SIZES if key in usual.attribute_map)}
    names = {name for name in names if not isinstance(getattr(type(usual), name, None), property)}
    sizes = {name: _SIZES[name] for name in names if name in _SIZES}
    if "qk_rope_head_dim" in names:  # latent attention; its head_dim is the part that is rotated
        sizes.pop("head_dim", None)
        sizes["num_key_value_heads"] = HEADS
    for name in ("pad_token_id", "bos_token_id"):
        if usual.to_dict().get(name) is not None:
            sizes[name] = 0
    if "layer_types" in names and getattr(usual, "layer_types", None):
        sizes["layer_types"] = list(dict.fromkeys(usual.layer_types)) * LAYERS
        sizes["num_hidden_layers"] = len(sizes["layer_types"])
    return sizes


def build(name: str, attention: str = "eager", seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A tiny model of the family `name`, in float32, with weights so large that attention is far from uniform.

    `changes` are fields of its configuration.
    """
    with _quiet():
        config = configuration(name, **changes)
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
    for parameter in model.parameters():
        parameter.data.mul_(4.0 if parameter.ndim > 1 else 1.0)
    return model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' remarks on token ids beyond a tiny vocabulary."""
    logging = transformers.utils.logging
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
