"""The rotary embedding of a captured model, as an attribute of its captures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import torch

from treekv.attention.rotary import Rotary, model_rotary
from treekv.errors import TreeKVError

ATTRIBUTE: Final = "rotary"


def rotary_attrs(model_config: Any) -> dict[str, str]:
    """The attribute that records the model's rotary embedding, as JSON: its frequencies, none for a model without one.
    No attribute where it is not known how queries can be moved.
    """
    try:
        rotary = model_rotary(model_config.get_text_config(decoder=True))
    except TreeKVError:
        return {}
    found = [] if rotary is None else rotary.inverse_frequencies[: rotary.rotary_dim // 2].tolist()
    return {ATTRIBUTE: json.dumps(found)}


def recorded_rotary(attrs: Mapping[str, Any], head_dim: int) -> Rotary | None:
    """The rotary embedding for heads of `head_dim` channels; None for a model without one.

    Raises:
        TreeKVError: it is not recorded.
    """
    if ATTRIBUTE not in attrs:
        raise TreeKVError(
            "the capture does not say how the model's rotary embedding moves queries, which prompt_score 'future' "
            "needs: an earlier version made it, so capture the text again, or the embedding is not known here"
        )
    frequencies = torch.tensor(json.loads(attrs[ATTRIBUTE]), dtype=torch.float)
    return Rotary(frequencies, head_dim) if len(frequencies) else None
