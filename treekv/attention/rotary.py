"""Moving keys and queries from one rotary position to another.

A key arrives rotated by the angle of its true position. Renumbering needs it at its rank, and compressed positions
at a distance of their own; both change while it is cached, so the key is stored unrotated and rotated whenever it is
used: one rotation, never a chain of them, so nothing drifts. Products see differences of angles only, so positions are
counted back from the newest token: a single new token's query then only needs the model's own rotation undone.

Rotation is a product of complex numbers. Many models keep the two parts of a number far apart in a head (dimension i
and i + rotary_dim / 2); stored keys have them side by side, so that rotating all of them is one multiplication. The
product of a query and a key does not depend on the order of their dimensions. Which model rotates how is measured, see
`treekv.attention.model_rotary`.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

TABLE_STEP = 256


class Shift(NamedTuple):
    """Phases for new tokens, float32 [1 or batch, 1, q, head_dim / 2, 2]: cosine and sine.

    Attributes:
        unrotate: from the true positions back to no rotation.
        to_rank: from the true positions to the ranks, counted back from the last new token's; `unrotate` itself if
            there is one new token.
    """

    unrotate: Tensor
    to_rank: Tensor


class Rotary:
    """The rotary embedding of one or several layers of a model.

    Args:
        frequencies: float32 [rotary_dim / 2], radians per position; negative ones turn the other way.
        head_dim: channels of a head; those beyond rotary_dim are not rotated.
        pairs: which two dimensions are one complex number: "half", i and i + rotary_dim / 2, or "interleaved", 2 i and
            2 i + 1.
        part: which dimensions of a head are rotated, the "first" or the "last".

    Attributes:
        inverse_frequencies: float32 [head_dim / 2], in the order of stored keys, zero where nothing is rotated.
    """

    def __init__(
        self,
        frequencies: Tensor,
        head_dim: int,
        pairs: Literal["half", "interleaved"] = "half",
        part: Literal["first", "last"] = "first",
    ) -> None:
        self.frequencies, self.pairs, self.part = frequencies.float(), pairs, part
        self.rotary_dim = 2 * frequencies.shape[0]
        still = self.frequencies.new_zeros((head_dim - self.rotary_dim) // 2)
        order = [self.frequencies, still] if part == "first" else [still, self.frequencies]
        self.inverse_frequencies = torch.cat(order)
        self._first = 0 if part == "first" else head_dim - self.rotary_dim
        self._tables: dict[torch.device, Tensor] = {}  # layers may be spread over devices
        self._asked_of: Tensor | None = None
        self._answers: dict[tuple[Any, ...], Shift] = {}

    def clear(self) -> None:
        """Start a new pass: the tensor of positions may have been changed in place since the last."""
        self._asked_of, self._answers = None, {}

    def interleave(self, x: Tensor) -> Tensor:
        """From the model's order of dimensions to the stored one, the parts of a number side by side."""
        if self.pairs == "interleaved":
            return x
        first, middle, last = self._first, self._first + self.rotary_dim // 2, self._first + self.rotary_dim
        rotated = torch.stack([x[..., first:middle], x[..., middle:last]], dim=-1).flatten(-2)
        if self.rotary_dim == x.shape[-1]:
            return rotated
        return torch.cat([x[..., :first], rotated, x[..., last:]], dim=-1)

    def rotate(self, x: Tensor, phases: Tensor) -> Tensor:
        """Stored form of `x` [..., head_dim], which is in the model's order, rotated by `phases`."""
        half = self.rotary_dim // 2
        if torch.compiler.is_compiling() or self.pairs == "interleaved" or self.rotary_dim < x.shape[-1]:
            return rotate_interleaved(self.interleave(x), phases)
        parts = x.float()
        numbers = torch.complex(parts[..., :half], parts[..., half:]) * torch.view_as_complex(phases)
        return torch.view_as_real(numbers).flatten(-2).to(x.dtype)

    def unrotated(self, x: Tensor, positions: Tensor) -> Tensor:
        """Stored form of `x` [batch, heads, n, head_dim], which the model rotated to `positions` [1 or batch, n]."""
        return self.rotate(x, _polar(-self._angles(positions[:, None])))

    def moved(self, x: Tensor, by: Tensor) -> Tensor:
        """Stored form of `x` [batch, heads, n, head_dim], which the model rotated, rotated on by `by` [1 or batch, n]
        positions."""
        return self.rotate(x, _polar(self._angles(by[:, None])))

    def turned_by_mean(self, stored: Tensor, positions: Tensor) -> Tensor:
        """Stored form [batch, heads, n, head_dim], each turned by the mean of the rotations to `positions` [1 or batch,
        m]."""
        return rotate_interleaved(stored, _polar(self._angles(positions)).mean(1)[:, None, None])

    def at_distance(self, stored: Tensor, distance: Tensor, limit: int) -> Tensor:
        """Stored keys [batch, heads, n, head_dim], each `distance` [batch, heads, n] positions before the last new
        token, 0 or more and below `limit`."""
        table = self._table(limit, stored.device)
        phases = table.index_select(0, distance.reshape(-1))
        phases = phases.view(*stored.shape[:-1], stored.shape[-1] // 2, 2)
        if torch.compiler.is_compiling():
            return rotate_interleaved(stored, phases)
        # In place: the phases are fresh, and fresh memory is what this step would pay for most.
        torch.view_as_complex(phases).mul_(torch.view_as_complex(stored.float().view(phases.shape)))
        return phases.flatten(-2).to(stored.dtype)

    def shift(self, position_ids: Tensor, rows: slice, first: int, count: int) -> Shift:
        """Phases for `count` new tokens, columns `first` and on of `position_ids` [1 or batch, columns].

        All layers of a forward pass ask the same questions of the same tensor, so answers are kept until `clear`.
        """
        asked = (rows.start, rows.stop, first, count)
        if self._asked_of is position_ids and asked in self._answers:
            return self._answers[asked]
        chosen = position_ids[rows if position_ids.shape[0] > 1 else slice(0, 1), first : first + count]
        angle = self._angles(chosen[:, None])
        unrotate = to_rank = _polar(-angle)
        if count > 1:
            # The difference of the model's own rounded angles, so that its rounding cancels.
            back = self._angles(torch.arange(1 - count, 1, device=position_ids.device))
            wide = "cpu" if angle.device.type == "mps" else angle.device  # there are no float64 numbers on MPS
            to_rank = _polar(back.to(wide).double() - angle.to(wide).double()).float().to(angle.device)
        shift = Shift(unrotate, to_rank)
        if not torch.compiler.is_compiling():
            if self._asked_of is not position_ids:
                self._asked_of, self._answers = position_ids, {}
            self._answers[asked] = shift
        return shift

    def _angles(self, positions: Tensor) -> Tensor:
        """float32 [..., head_dim / 2], rounded exactly as the model rounds its own."""
        return positions[..., None].float() * self.inverse_frequencies.to(positions.device)

    def _table(self, limit: int, device: torch.device) -> Tensor:
        """float32 [at least limit, head_dim], the phases of all distances."""
        table = self._tables.get(device)
        if table is None or table.shape[0] < limit:
            distances = torch.arange(-(-limit // TABLE_STEP) * TABLE_STEP, device=device)
            table = _polar(-self._angles(distances)).flatten(-2)
            self._tables[device] = table
        return table


def rotate_interleaved(x: Tensor, phases: Tensor) -> Tensor:
    """Stored form `x` [..., head_dim] rotated by `phases` [..., head_dim / 2, 2], computed in float32."""
    parts = x.float().reshape(*x.shape[:-1], x.shape[-1] // 2, 2)
    if torch.compiler.is_compiling():  # the compiler fuses real arithmetic, but not complex
        (real, imaginary), (cos, sin) = parts.unbind(-1), phases.unbind(-1)
        turned = torch.stack([real * cos - imaginary * sin, imaginary * cos + real * sin], dim=-1)
    else:
        turned = torch.view_as_real(torch.view_as_complex(parts) * torch.view_as_complex(phases))
    return turned.reshape(x.shape).to(x.dtype)


def _polar(angle: Tensor) -> Tensor:
    return torch.stack([angle.cos(), angle.sin()], dim=-1)
