"""Tiny random models that the analysis tests run on."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import treekv  # noqa: F401  registers the attention implementation


def make_llama(attention: str) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
    )
    model = LlamaForCausalLM(config).eval()
    for parameter in model.parameters():  # larger weights, so that attention is far from uniform
        parameter.data.mul_(6.0 if parameter.ndim > 1 else 1.0)
    model.set_attn_implementation(attention)
    return model


@pytest.fixture(scope="session")
def tiny():
    return make_llama("treekv")


@pytest.fixture(scope="session")
def tiny_eager():
    return make_llama("eager")


@pytest.fixture(scope="session")
def token_ids():
    return torch.randint(0, 97, (300,), generator=torch.Generator().manual_seed(1))
