"""Choices among tensors of scores: the lowest, the highest, and what remains without some ranks."""

from __future__ import annotations

import torch
from torch import Tensor


def lowest(values: Tensor, count: int, first_rank: int) -> Tensor:
    """Ranks, ascending, of the `count` lowest of `values` [batch, heads, n], the first of which has `first_rank`.

    Values are float32 or integers of 32 bits. Among equals the older ones are chosen first, on every device. Attention
    weights contain no NaN.
    """
    if count == 1:
        found = values.argmin(dim=2, keepdim=True)  # the first of equals
    else:
        found = _positions(_keys(values).topk(count, dim=2, largest=False, sorted=False).values)
    return found + first_rank if first_rank else found


def highest(values: Tensor, count: int) -> Tensor:
    """Positions, ascending, of the `count` highest of `values` [batch, heads, n], float32 or integers of 32 bits; among
    equals the newer ones."""
    return _positions(_keys(values).topk(count, dim=2, sorted=False).values)


def _keys(values: Tensor) -> Tensor:
    """LongTensor [batch, heads, n] in the order of `values`, and among equals in the order of their positions: no two
    are equal, so that `topk`, much faster than a stable sort, has no choice."""
    if values.is_floating_point():
        bits = (values.float() + 0.0).view(torch.int32)  # the addition removes minus zero
        values = bits ^ (bits >> 31 & 0x7FFFFFFF)  # below zero a larger pattern is a smaller number
    return values.long() << 32 | torch.arange(values.shape[2], device=values.device)


def _positions(keys: Tensor) -> Tensor:
    """LongTensor, ascending."""
    return (keys & 0xFFFFFFFF).sort(dim=2).values


def with_protected(chosen: Tensor, first: int, last: int, length: int) -> Tensor:
    """`chosen` [batch, heads, n] between the positions before `first` and those from `last` on."""
    shape = (*chosen.shape[:2], -1)
    position = torch.arange(length, device=chosen.device)
    return torch.cat([position[:first].expand(shape), chosen, position[last:].expand(shape)], dim=2)


def without(values: Tensor, ranks: Tensor) -> Tensor:
    """`values` [batch, heads, n] without the entries at `ranks` [batch, heads, m] (ascending, distinct)."""
    n, m = values.shape[2], ranks.shape[2]
    if m == 1:
        index = torch.arange(n - 1, device=values.device)
        return values.gather(2, index + (index >= ranks))
    # Entry i of the result has as many removed entries before it as there are removed ones that, themselves taken
    # out, leave i or fewer entries in front.
    index = torch.arange(n - m, device=values.device).expand(*values.shape[:2], -1).contiguous()
    before = torch.searchsorted((ranks - torch.arange(m, device=values.device)).contiguous(), index, right=True)
    return values.gather(2, index + before)


def at_ranks(tensor: Tensor, ranks: slice | Tensor) -> Tensor:
    """The entries of `tensor` [batch, heads, n, ...] at `ranks`, a slice or LongTensor [batch, heads, m]."""
    if isinstance(ranks, slice):
        return tensor[:, :, ranks]
    index = ranks if tensor.ndim == 3 else ranks[..., None].expand(*ranks.shape, tensor.shape[3])
    return tensor.gather(2, index)


def splitmix(
    seed: int,
    layer: int | tuple[int, ...],
    heads: int | Tensor,
    step: int | Tensor,
    held: int | Tensor,
    device: torch.device | str,
) -> Tensor:
    """Pseudo-random numbers from 0 to 2**31 - 1, LongTensor [1 or batch, heads, 1 or as many as `step` has].

    The finalizer of SplitMix64, once for each input; int64 arithmetic wraps around on every device. `heads` is how many
    there are, or the numbers of some, LongTensor [heads] or [batch, heads].
    """
    numbers = torch.arange(heads, device=device) if isinstance(heads, int) else heads
    value = torch.zeros((1, numbers.shape[-1], 1), dtype=torch.long, device=device)
    rows = layer if isinstance(layer, int) else torch.tensor(layer, device=device)[:, None, None]
    for part in (seed, rows, numbers[..., None], held, step):
        value = (value + part + 1) * -7046029254386353131
        value = (value ^ (value >> 30 & (1 << 34) - 1)) * -4658895280553007687
        value = (value ^ (value >> 27 & (1 << 37) - 1)) * -7723592293110705685
        value = value ^ (value >> 31 & (1 << 33) - 1)
    return value >> 33 & (1 << 31) - 1


def gaussians(
    seed: int, layer: int | tuple[int, ...], step: int | Tensor, count: int, device: torch.device | str
) -> Tensor:
    """Pseudo-random normal numbers, float32 [1 or batch, count], by Box and Muller from `splitmix`."""
    numbers = torch.arange(2 * count, device=device)
    uniform = (splitmix(seed, layer, 1, numbers, step, device)[:, 0].double() + 0.5) / 2**31
    radius, angle = (-2 * uniform[:, :count].log()).sqrt(), 2 * torch.pi * uniform[:, count:]
    return (radius * angle.cos()).float()
