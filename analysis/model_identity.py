"""Which model something was made with: its name, and a fingerprint of what it is."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

SAMPLED = 16  # numbers of each parameter

# What a configuration says of who saved it and how it is run, which is not what the model is; where it lies also
# goes, by the end of the key.
_SAVED = frozenset(["architectures", "auto_map", "dtype", "torch_dtype", "transformers_version"])
_RUN = frozenset(["use_cache", "return_dict", "output_attentions", "output_hidden_states", "pad_token_id"])
_PLACE = "name_or_path"


def model_name(config: Any) -> str:
    """What the model of this configuration is called; of a place on this machine only the last part."""
    name = str(getattr(config, "_name_or_path", "") or config.model_type)
    return Path(name).name if os.path.isabs(name) else name


def model_fingerprint(model: nn.Module) -> str:
    """16 hexadecimal digits over the configuration and 16 numbers spread over each parameter.

    The same for the same model wherever it lies, on whatever device and in whatever float type that holds its
    numbers; another for another checkpoint of the same architecture. Parameters that are on no device are told by
    their names and shapes only.
    """
    config: Any = model.config
    digest = hashlib.sha256(json.dumps(_plain(config.to_dict()), sort_keys=True, default=str).encode())
    for name, parameter in sorted(model.named_parameters()):
        digest.update(f"{name} {tuple(parameter.shape)}".encode())
        if parameter.is_meta or not parameter.numel():
            continue
        flat = parameter.detach().reshape(-1)
        # From the first to the last, so that rows and columns both change.
        index = torch.arange(SAMPLED, device=flat.device) * (flat.shape[0] - 1) // (SAMPLED - 1)
        digest.update(flat[index].to(torch.float32).cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _plain(config: Any) -> Any:
    if isinstance(config, dict):
        kept = {str(key): _plain(value) for key, value in config.items() if key not in _SAVED | _RUN}
        return {key: value for key, value in kept.items() if not key.endswith(_PLACE)}
    return config
