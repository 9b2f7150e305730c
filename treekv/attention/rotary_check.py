"""Does a loaded model rotate its keys as its family is said to? One pass over a few single tokens tells.

A token that is alone in its row attends to itself only, so its hidden states do not depend on its position, and its
keys at two positions differ by the rotation.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from transformers.cache_utils import DynamicCache

from treekv.attention import model_rotary, supported
from treekv.errors import TreeKVError

TOKENS: Final = 3
FARTHEST: Final = 1000  # the position that is compared with 0
CLOSE: Final = 1e-4  # of the largest number in float32; coarser dtypes get some of their own steps
STEPS: Final = 6


def check_rotation(model: Any) -> None:
    """Compare a model's keys with what `layer_rotaries` says of its configuration; where they differ it will refuse
    that configuration from now on, so that caches for this model use original positions.

    A model whose positions cannot be changed anyway, or that has no full attention, is not tried.
    """
    config = model.config.get_text_config(decoder=True)
    try:
        layers, rotaries = supported.full_attention_layers(config), model_rotary.layer_rotaries(config)
    except TreeKVError:
        return
    places = torch.tensor([0, min(FARTHEST, (getattr(config, "max_position_embeddings", None) or FARTHEST + 1) - 1)])
    places = places.repeat_interleave(TOKENS).to(model.device)
    ids = torch.arange(1, TOKENS + 1, device=model.device).repeat(2) * (config.vocab_size // (TOKENS + 2))
    cache = DynamicCache(config=config)
    try:
        with torch.no_grad():
            model(input_ids=ids[:, None], position_ids=places[:, None], past_key_values=cache, use_cache=True)
    except Exception as error:  # of any kind: a model that cannot be used so
        model_rotary.refute(config, f"its rotary embedding could not be tried ({_first_line(error)})")
        return
    for layer in layers:
        key: Any = getattr(cache.layers[layer], "keys", None)
        rotary = rotaries[layer]
        expected, found = key[:TOKENS], key[TOKENS:]
        if rotary is not None:
            expected, found = rotary.moved(expected, places[TOKENS:, None]), rotary.interleave(found)
        close = max(CLOSE, STEPS * torch.finfo(key.dtype).eps) * float(found.abs().max())
        if not bool(((expected.float() - found.float()).abs() <= close).all()):
            model_rotary.refute(config, f"layer {layer} was seen to rotate its keys in another way than its family")
            return


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
