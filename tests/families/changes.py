"""What families need to be built tiny, beside the sizes that all have."""

from __future__ import annotations

from typing import Any, Final

_MAMBA: Final = dict(mamba_n_heads=4, mamba_d_head=16, mamba_expand=1)
_DECODER: Final = dict(is_decoder=True)
_VISION: Final = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)

#: Of each family, "fields" of its text configuration, other "parts" of a composite one, and fields that its usual
#: configuration "needed" to exist.
CHANGES: Final[dict[str, dict[str, Any]]] = {
    "bamba": {"fields": {**_MAMBA, "num_hidden_layers": 4, "attn_layer_indices": [1, 3]}},
    "bert": {"fields": _DECODER},
    "bert-generation": {"fields": _DECODER},
    "camembert": {"fields": _DECODER},
    "codegen": {"fields": {"rotary_dim": 8}},
    "cohere_compass_text": {
        "fields": {
            "layer_types": ["full_attention", "sliding_attention"] * 2,
            "num_hidden_layers": 4,
            "rope_parameters": {
                kind: {"rope_type": "default", "rope_theta": theta}
                for kind, theta in (("full_attention", 1e6), ("sliding_attention", 1e4))
            },
        }
    },
    "cpmant": {"fields": {"dim_head": 16, "dim_ff": 96}},
    "ctrl": {"fields": {"dff": 96}},
    "data2vec-text": {"fields": _DECODER},
    "dbrx": {
        "fields": {
            "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0},
            "ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2},
        }
    },
    "deepseek_v4": {"fields": {"head_dim": 16, "o_groups": 2, "o_lora_rank": 16}},
    "dots3_note_text": {
        "fields": {
            "swa_num_attention_heads": 4,
            "swa_num_key_value_heads": 4,
            "swa_q_lora_rank": 16,
            "swa_kv_lora_rank": 16,
            "swa_head_dim": 24,
            "swa_qk_nope_head_dim": 16,
            "swa_v_head_dim": 16,
        }
    },
    "electra": {"fields": _DECODER},
    "ernie": {"fields": _DECODER},
    "falcon_h1": {"fields": {**_MAMBA, "mamba_d_ssm": 64}},
    "git": {"parts": {"vision_config": _VISION | {"image_size": 32, "patch_size": 16}}},
    "gpt_neo": {"fields": {"attention_types": [[["global", "local"], 1]], "window_size": 16}},
    "gptj": {"fields": {"rotary_dim": 8}},
    "granitemoehybrid": {
        "fields": {
            **_MAMBA,
            "layer_types": ["linear_attention", "full_attention"] * 2,
            "num_hidden_layers": 4,
            "position_embedding_type": "rope",
        }
    },
    "jamba": {"fields": {"num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1, "mamba_dt_rank": 4}},
    "lfm2_moe": {"fields": {"layer_types": ["conv", "full_attention"] * 2, "num_hidden_layers": 4}},
    "longcat_flash": {"fields": {"zero_expert_num": 2, "head_dim": 8}},
    "mamba2": {"fields": {"num_heads": 8, "head_dim": 16}},
    "megatron-bert": {"fields": _DECODER},
    "nemotron_h": {"fields": {"mamba_num_heads": 4, "mamba_head_dim": 16, "moe_shared_expert_intermediate_size": 32}},
    "phi4_multimodal": {
        "parts": {
            "audio_config": {
                "hidden_size": 16,
                "num_blocks": 1,
                "num_attention_heads": 2,
                "nemo_conv_channels": 16,
                "ext_pw_out_channel": 16,
                "intermediate_size": 16,
            }
        }
    },
    "qwen4_exp_text": {
        "fields": {
            "indexer_n_heads": 4,
            "indexer_kv_heads": 1,
            "indexer_head_dim": 16,
            "indexer_budget": 16,
            "indexer_compress_ratio": 4,
            "hc_lowrank": 8,
        }
    },
    "recurrent_gemma": {"fields": {"num_hidden_layers": 6}},
    "reformer": {
        "fields": {
            **_DECODER,
            "attn_layers": ["local", "lsh"],
            "axial_pos_shape": [64, 128],
            "axial_pos_embds_dim": [32, 32],
        }
    },
    "rembert": {"fields": {**_DECODER, "input_embedding_size": 32, "output_embedding_size": 32}},
    "roberta": {"fields": _DECODER},
    "roberta-prelayernorm": {"fields": _DECODER},
    "roc_bert": {
        "fields": {
            **_DECODER,
            "pronunciation_embed_dim": 16,
            "pronunciation_vocab_size": 97,
            "shape_embed_dim": 16,
            "shape_vocab_size": 97,
        }
    },
    "roformer": {"fields": _DECODER},
    "xlm-roberta": {"fields": _DECODER},
    "xlm-roberta-xl": {"fields": _DECODER},
    "xmod": {"fields": {**_DECODER, "default_language": "en_XX"}},
    "zamba": {
        "fields": {
            "num_hidden_layers": 4,
            "layers_block_type": ["linear_attention", "hybrid"] * 2,
            "attention_hidden_size": 128,
            "attention_head_dim": 32,
            "num_key_value_heads": 4,
        }
    },
    "zamba2": {
        "fields": {
            "num_hidden_layers": 4,
            "layers_block_type": ["linear_attention", "hybrid"] * 2,
            "attention_hidden_size": 128,
            "attention_head_dim": 32,
            "num_key_value_heads": 4,
            "num_query_groups": 4,
            "use_mem_rope": True,
        }
    },
    "zaya": {"fields": {"num_experts_per_tok": 1, "router_hidden_size": 16}},
}

#: Families that cannot be built here, and why.
NOT_BUILT: Final[dict[str, str]] = {
    "blt": "its tables of hashed bytes have millions of rows",
    "dots3_note": "its text part cannot be given its number of layers; dots3_note_text is that part",
    "gemma3n": "its vision part needs the package timm; gemma3n_text is its text part",
    "gemma4_assistant": "it has no cache of its own, since it drafts with the keys and values of another model",
    "gemma4_unified_assistant": "it has no cache of its own, since it drafts with the keys and values of another model",
    "musicgen": "transformers builds it from the configuration of its decoder only",
    "musicgen_melody": "transformers builds it from the configuration of its decoder only",
    "xlstm": "it has no attention, and its sizes depend on one another",
}
