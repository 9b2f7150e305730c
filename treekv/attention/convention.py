"""Conventions of rotary embeddings."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple


class Convention(NamedTuple):
    """How the models of a family rotate keys and queries, and in which layers.

    Attributes:
        pairs: which dimensions are turned together, see `treekv.attention.rotary.Rotary`.
        part: which dimensions of a head are rotated.
        sign: 1 turns the first of a pair towards the second, -1 the second towards the first.
        layers: which layers do. "all" or "none"; "sliding" for all that are no "full_attention", "sliding or no
            window" for all layers too where the configuration has no sliding window, and "sliding or dense" for dense
            layers too where their `prefix_dense_sliding_window_pattern` is 1; or a field of the configuration that says
            so, for each layer or for all, a word being "rope" or another.
    """

    pairs: Literal["half", "interleaved"] = "half"
    part: Literal["first", "last"] = "first"
    sign: Literal[1, -1] = 1
    layers: str = "all"

    def rotates(self, config: Any, number: int) -> bool:
        """Whether layer `number` of a model with this text configuration does."""
        if self.layers in ("all", "none"):
            return self.layers == "all"
        if self.layers.startswith("sliding"):
            if self.layers == "sliding or no window" and config.sliding_window is None:
                return True
            if self.layers == "sliding or dense" and config.prefix_dense_sliding_window_pattern == 1:
                return bool(config.layer_types[number] != "full_attention" or config.mlp_layer_types[number] == "dense")
            return bool(config.layer_types[number] != "full_attention")
        field = getattr(config, self.layers)
        own = field[number] if isinstance(field, (list, tuple)) else field
        return own == "rope" if isinstance(own, str) else bool(own)
