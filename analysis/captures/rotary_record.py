"""The rotary embedding of a captured model, as an attribute of its captures.

JSON: a list of frequencies, empty for a model without rotary positions, if all layers rotate the first half of the
rotary dimensions against the second half by them. Otherwise {"embeddings": [{"frequencies", "pairs", "part"}, ...],
"layers": [for each layer of the model the number of its embedding, or null]}.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final

import torch

from treekv.attention.model_rotary import query_rotaries
from treekv.attention.rotary import Rotary
from treekv.errors import TreeKVError

ATTRIBUTE: Final = "rotary"


def rotary_attrs(model_config: Any) -> dict[str, str]:
    """The attribute that records how a model rotates. No attribute where it is not known how queries can be moved."""
    try:
        rotaries = query_rotaries(model_config.get_text_config(decoder=True))
    except TreeKVError:
        return {}
    each = list(dict.fromkeys(rotary for rotary in rotaries if rotary is not None))
    plain = all((rotary.pairs, rotary.part) == ("half", "first") for rotary in each)
    if len(set(rotaries)) <= 1 and plain and all(bool((rotary.frequencies > 0).all()) for rotary in each):
        return {ATTRIBUTE: json.dumps(each[0].frequencies.tolist() if each else [])}
    embeddings = [
        {"frequencies": rotary.frequencies.tolist(), "pairs": rotary.pairs, "part": rotary.part} for rotary in each
    ]
    layers = [None if rotary is None else each.index(rotary) for rotary in rotaries]
    return {ATTRIBUTE: json.dumps({"embeddings": embeddings, "layers": layers})}


def recorded_rotary(attrs: Mapping[str, Any], layer: int, head_dim: int) -> Rotary | None:
    """The rotary embedding of the model's layer `layer`, with heads of `head_dim` channels; None if it has none.

    Raises:
        TreeKVError: it is not recorded.
    """
    if ATTRIBUTE not in attrs:
        raise TreeKVError(
            "the capture does not say how the model's rotary embedding moves queries, which prompt_score 'future' "
            "needs: an earlier version made it, so capture the text again, or the embedding is not known here"
        )
    recorded = json.loads(attrs[ATTRIBUTE])
    if isinstance(recorded, list):
        return Rotary(torch.tensor(recorded, dtype=torch.float), head_dim) if recorded else None
    number = recorded["layers"][layer]
    if number is None:
        return None
    own = recorded["embeddings"][number]
    return Rotary(torch.tensor(own["frequencies"], dtype=torch.float), head_dim, own["pairs"], own["part"])


def fault(recorded: Any, layers: list[int], channels: int) -> str | None:
    """What is wrong with the attribute of a file that has these layers, with keys of so many channels, if anything."""
    embeddings: Any = [{"frequencies": recorded, "pairs": "half", "part": "first"}]
    if isinstance(recorded, dict):
        embeddings, of_layers = recorded.get("embeddings"), recorded.get("layers")
        known = range(len(embeddings)) if isinstance(embeddings, list) else range(0)
        if not isinstance(of_layers, list) or not all(x is None or (type(x) is int and x in known) for x in of_layers):
            return f"its attribute {ATTRIBUTE!r} has no list with the embedding of each layer"
        missing = [layer for layer in layers if layer >= len(of_layers)]
        if missing:
            return f"its attribute {ATTRIBUTE!r} says nothing of layer {missing[0]}"
    for own in embeddings:
        if not isinstance(own, dict) or own.get("pairs") not in ("half", "interleaved"):
            return f"its attribute {ATTRIBUTE!r} names no pairs of dimensions that are rotated together"
        if own.get("part") not in ("first", "last"):
            return f"its attribute {ATTRIBUTE!r} does not say which part of a head is rotated"
        frequencies = own.get("frequencies")
        if not isinstance(frequencies, list) or not all(map(_is_frequency, frequencies)):
            return f"its attribute {ATTRIBUTE!r} is no list of frequencies"
        if 2 * len(frequencies) > channels:
            return f"its attribute {ATTRIBUTE!r} has {len(frequencies)} frequencies, but keys have {channels} channels"
    return None


def _is_frequency(x: Any) -> bool:
    return isinstance(x, (int, float)) and not isinstance(x, bool) and math.isfinite(x)
