"""The identity of a model: its name, a fingerprint of its configuration and parameters, and what a cache depends on."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

SAMPLED = 16  # elements of each parameter

# Keys of a configuration that describe how it was saved or is run, not what the model is. Paths are dropped too, by
# the end of the key.
_SAVED = frozenset(["architectures", "auto_map", "dtype", "torch_dtype", "transformers_version"])
_RUN = frozenset(["use_cache", "return_dict", "output_attentions", "output_hidden_states", "pad_token_id"])
_PLACE = "name_or_path"


def model_name(config: Any) -> str:
    """The name of the model with this configuration; of a local path only the last part."""
    name = str(getattr(config, "_name_or_path", "") or config.model_type)
    return Path(name).name if os.path.isabs(name) else name


def model_fingerprint(model: nn.Module) -> str:
    """16 hexadecimal digits: a hash of the configuration and of 16 elements spread over each parameter.

    It does not depend on the model's path or device, nor on the float type as long as that represents the parameters
    exactly; it differs between checkpoints of the same architecture. Parameters on the meta device contribute only
    their names and shapes.
    """
    config: Any = model.config
    return _with_weights(json.dumps(_plain(config.to_dict()), sort_keys=True, default=str), model)


def weights_fingerprint(model: nn.Module) -> str:
    """The same without the configuration, whose keys depend on the version of transformers."""
    return _with_weights("", model)


def _with_weights(description: str, model: nn.Module) -> str:
    digest = hashlib.sha256(description.encode())
    for name, parameter in sorted(model.named_parameters()):
        digest.update(f"{name} {tuple(parameter.shape)}".encode())
        if parameter.is_meta or not parameter.numel():
            continue
        # Quantised parameters are of types of their own, which know what they stand for but not how to be sampled.
        own = type(parameter.data) is torch.Tensor
        flat = (parameter.detach() if own else parameter.detach().dequantize()).reshape(-1)
        # From the first to the last element, so that both rows and columns are sampled.
        index = torch.arange(SAMPLED, device=flat.device) * (flat.shape[0] - 1) // (SAMPLED - 1)
        digest.update(flat[index].to(torch.float32).cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _plain(config: Any) -> Any:
    if isinstance(config, dict):
        kept = {str(key): _plain(value) for key, value in config.items() if key not in _SAVED | _RUN}
        return {key: value for key, value in kept.items() if not key.endswith(_PLACE)}
    return config
