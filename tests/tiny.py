"""Tiny random models: real architectures, no downloads; and what tests compare of their caches."""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from treekv import TreeKVCache

VOCABULARY = 97


def llama(attention: str = "treekv", *, kv_heads: int = 2, window: int = 512, **changes) -> LlamaForCausalLM:
    """Two layers, four query heads in groups, with weights large enough that attention is far from uniform."""
    torch.manual_seed(0)
    config = LlamaConfig(
        **{
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": kv_heads,
            "max_position_embeddings": window,
            **changes,
        }
    )
    model = LlamaForCausalLM(config).eval()
    for parameter in model.parameters():
        parameter.data.mul_(4.0 if parameter.ndim > 1 else 1.0)
    model.set_attn_implementation(attention)
    return model


def tokens(length: int, batch: int = 1, seed: int = 1) -> torch.Tensor:
    """Random token ids [batch, length]."""
    return torch.randint(1, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(seed))


def distinct_tokens(length: int, seed: int = 1) -> torch.Tensor:
    """Token ids [1, length] without a repetition. In the first layer equal tokens have equal keys before rotary
    embedding, which rounding orders in one way or another."""
    return 1 + torch.randperm(VOCABULARY - 1, generator=torch.Generator().manual_seed(seed))[None, :length]


def same_state(one: TreeKVCache, other: TreeKVCache) -> bool:
    """Whether two caches of a model of two layers keep the same tokens."""
    return all(torch.equal(one.kept_positions(layer), other.kept_positions(layer)) for layer in range(2))
