"""Moving keys and queries from one rotary position to another.

A key arrives rotated by the angle of its true position. Renumbering needs it at its rank, which changes while it
is cached, so the key is stored unrotated and turned by the angle of its rank whenever it is used: one rotation,
never a chain of them, so nothing drifts.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from treekv.errors import TreeKVError

#: Families that rotate the first half of the rotary dimensions against the second half.
HALF_ROTATION = frozenset(
    [
        "gemma",
        "gemma3",
        "gemma3_text",
        "gpt_neox",
        "granite",
        "llama",
        "mistral",
        "olmo",
        "olmo2",
        "phi",
        "phi3",
        "qwen2",
        "qwen3",
        "stablelm",
    ]
)
#: Scalings whose angles do not depend on the length of the input.
FIXED_SCALINGS = frozenset(["default", "linear", "llama3", "yarn"])


class Rotary:
    """The rotary embedding of one layer type of a model.

    Args:
        inverse_frequencies: float32 [rotary_dim / 2], radians per position.
    """

    def __init__(self, inverse_frequencies: Tensor) -> None:
        self.inverse_frequencies = inverse_frequencies.float()
        self._table: dict[torch.device, tuple[Tensor, Tensor]] = {}  # layers may be spread over devices

    @classmethod
    def from_config(cls, config: Any, layer_type: str = "full_attention") -> Rotary:
        """Read the frequencies that transformers computes for this model.

        Raises:
            TreeKVError: the model has no rotary embedding that can be renumbered exactly.
        """
        family = getattr(config, "model_type", "?")
        if family not in HALF_ROTATION:
            raise TreeKVError(
                f"positions='rank' is not supported for the model family {family!r}: its rotary embedding is not "
                f"known here; use positions='original', or one of {', '.join(sorted(HALF_ROTATION))}"
            )
        parameters = getattr(config, "rope_parameters", None) or {}
        nested = isinstance(parameters.get(layer_type), dict)
        if nested:
            parameters = parameters[layer_type]
        kind = parameters.get("rope_type", "default")
        if kind not in FIXED_SCALINGS:
            raise TreeKVError(
                f"positions='rank' is not supported for rotary scaling {kind!r}, whose angles change with the "
                f"length of the input; use positions='original' or a model with one of "
                f"{', '.join(sorted(FIXED_SCALINGS))}"
            )
        if kind == "default":
            head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
            dim = int(head_dim * parameters.get("partial_rotary_factor", 1.0))
            exponent = torch.arange(0, dim, 2, dtype=torch.float) / dim
            return cls(1.0 / parameters["rope_theta"] ** exponent)
        frequencies, _ = ROPE_INIT_FUNCTIONS[kind](config, layer_type=layer_type if nested else None)
        return cls(frequencies)

    def angles(self, positions: Tensor) -> Tensor:
        """float32 [..., rotary_dim / 2], rounded exactly as the model rounds its own."""
        return positions[..., None].float() * self.inverse_frequencies.to(positions.device)

    def by_position(self, x: Tensor, positions: Tensor, *, inverse: bool = False) -> Tensor:
        """Rotate `x` [batch, heads, n, head_dim] to `positions` [n] or [batch, 1, n] (or back from there)."""
        angle = self.angles(positions)
        cos, sin = angle.cos(), angle.sin()
        return _rotate(x, cos, -sin if inverse else sin)

    def shift(self, x: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """Move `x` [batch, heads, n, head_dim] from positions `start` to positions `end`, in one rotation.

        The difference is taken in float64 from the model's own rounded angles, so that they cancel.
        """
        angle = self.angles(end).double() - self.angles(start).double()
        return _rotate(x, angle.cos().float(), angle.sin().float())

    def by_rank(self, x: Tensor, ranks: Tensor, limit: int) -> Tensor:
        """Rotate unrotated `x` [batch, heads, n, head_dim] to `ranks` [batch, heads, n], all below `limit`."""
        cos, sin = self._tables(limit, x.device)
        shape = (*ranks.shape, cos.shape[1])
        flat = ranks.reshape(-1)
        return _rotate(x, cos.index_select(0, flat).view(shape), sin.index_select(0, flat).view(shape))

    def _tables(self, limit: int, device: torch.device) -> tuple[Tensor, Tensor]:
        table = self._table.get(device)
        if table is None or table[0].shape[0] < limit:
            angle = self.angles(torch.arange(-(-limit // 256) * 256, device=device))
            table = self._table[device] = angle.cos(), angle.sin()
        return table


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (i, i + rotary_dim / 2) of `x` by the given angles, in float32, back in `x`'s dtype."""
    half = cos.shape[-1]
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    turned = [first * cos - second * sin, second * cos + first * sin]
    return torch.cat([part.to(x.dtype) for part in turned] + [rest], dim=-1)
