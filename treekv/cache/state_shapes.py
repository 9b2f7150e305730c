"""The shapes of the states that the layers of a model keep beside keys and values, found without its weights."""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.cache_utils import DynamicCache

from treekv.cache.plain_layers import state_of
from treekv.transformers_releases import LinearAttentionLayer

TOKENS = 3  # that are read to find them


def state_shapes(layers: list[Any], model_config: Any) -> list[dict[str, tuple[int, ...]]]:
    """For each layer the shapes of what `plain_layers.state_of` gives its states of linear attention or convolution,
    without the batch.

    A few tokens are read on PyTorch's device "meta", where nothing is computed and nothing takes memory. Of a model
    that cannot be read so, nothing is known and the dictionaries are empty, as they are of layers without states.

    Args:
        layers: of a cache for the model.
        model_config: its configuration.
    """
    if not any(isinstance(layer, LinearAttentionLayer) for layer in layers):
        return [{} for _ in layers]
    config = copy.deepcopy(model_config)
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"), torch.no_grad():
            model = AutoModelForCausalLM.from_config(
                config,
                dtype=torch.bfloat16,  # experts are multiplied as half precision only there
                attn_implementation="sdpa",
                trust_remote_code=False,  # nor is anybody asked whether code from elsewhere may run
            )
            read = DynamicCache(config=config)
            model(torch.zeros(1, TOKENS, dtype=torch.long), past_key_values=read)
    except Exception:  # code of any model
        return [{} for _ in layers]
    found: list[Any] = read.layers
    if len(found) != len(layers):
        return [{} for _ in layers]
    return [
        {
            name: tuple(tensor.shape[1:])
            for name, tensor in state_of(layer).tensors.items()
            if name not in ("keys", "values")
        }
        for layer in found
    ]
