"""What a policy is: a choice of ranks to evict, given scores by rank."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor

from treekv.errors import TreeKVError

if TYPE_CHECKING:
    from treekv.config import TreeKVConfig


class Scores(Protocol):
    """What a policy may look at when it evicts. Ranks are positions in the cache, oldest first.

    Attributes:
        held: number of ranks, newcomers included.
        capacity: ranks at rest; `held - capacity` must go.
        cursor: where policy "tree" compares next, counted from the end of the sinks: one number for all rows,
            or a LongTensor [batch, 1, 1].
        step: true position of the newest token: one number, or a LongTensor [batch, 1, 1].
        layer: the layer's number in the model, or the number of each row if they belong to several layers, which a
            policy with `depends_on_layer` sees only if it `takes_layers_together`.
        traced: whether anybody wants to know the winners; a policy may leave them out otherwise.
        shape: (batch, kv_heads).
        device: where the tensors live.
    """

    traced: bool
    shape: tuple[int, int]
    device: torch.device

    @property
    def held(self) -> int: ...

    @property
    def capacity(self) -> int: ...

    @property
    def cursor(self) -> int | Tensor: ...

    @property
    def step(self) -> int | Tensor: ...

    @property
    def layer(self) -> int | tuple[int, ...]: ...

    def average(self, ranks: slice | Tensor) -> Tensor:
        """Average observed weight, float32 [batch, kv_heads, m], of the m ranks asked for."""
        ...

    def total(self, ranks: slice | Tensor) -> Tensor:
        """Sum of observed weights likewise; for a policy with `accumulates` False, the last observed weight."""
        ...


class Evictions(NamedTuple):
    """One or more evictions, in ranks of the list before the first of them.

    Attributes:
        losers: LongTensor [batch, kv_heads, m], ascending along m.
        winners: LongTensor of the same shape, who won the comparison; None where nothing was compared
            or nobody wants to know.
        cursor: the cursor afterwards; None if it stays where it is.
    """

    losers: Tensor
    winners: Tensor | None = None
    cursor: int | Tensor | None = None


class Prompt(NamedTuple):
    """A prompt that is longer than the cache, as prefill "tree" sees it.

    Attributes:
        length: T, its tokens.
        sums: float32 [batch, kv_heads, T], weights summed over the observing queries; None for a policy that
            does not use attention.
        counts: float32 [1, 1, T], how many observing queries could see the token; None likewise.
        heads: KV heads.
        layer: the layer's number, as in `Scores`.
        layers: how many the model has.
        device: where the tensors live.
    """

    length: int
    sums: Tensor | None
    counts: Tensor | None
    heads: int
    layer: int | tuple[int, ...]
    layers: int
    device: torch.device


class Selection(NamedTuple):
    """What stays of a prompt.

    Attributes:
        kept: LongTensor [batch or 1, kv_heads or 1, k], positions that stay, ascending.
        survivors: LongTensor [batch or 1, kv_heads or 1, T], for each token the position that won against it
            when it was evicted, -1 where it stays or nothing was compared; None if nothing was compared at all.
    """

    kept: Tensor
    survivors: Tensor | None


class Policy(ABC):
    """Base of all policies; stateless, so one object serves every cache.

    Attributes:
        name: the value of `TreeKVConfig.policy`.
        evicts_prompt: whether a prompt is reduced.
        evicts_decoding: whether the capacity also holds while decoding; if not, new tokens are all kept.
        uses_attention: whether scores are needed; without them attention weights are not collected.
        accumulates: whether scores are sums over queries, or just what the last query saw.
        observes_whole_prompt: whether all queries of a prompt score it, or those of the observation window.
        depends_on_layer: whether layers are treated differently.
        takes_layers_together: whether rows of several layers may be given at once all the same.
    """

    name: str
    evicts_prompt: bool = True
    evicts_decoding: bool = True
    uses_attention: bool = True
    accumulates: bool = True
    observes_whole_prompt: bool = False
    depends_on_layer: bool = False
    takes_layers_together: bool = False

    def default_sink_size(self) -> int:
        """The paper's 4."""
        return 4

    def default_recent_size(self, cache_size: int, sink_size: int) -> int:
        """Half of the cache, sinks included (the paper: 1,024 = 4 + 508 + 512)."""
        return max(cache_size // 2 - sink_size, 0)

    def default_window_size(self, block_size: int) -> int:
        """The paper's: one block."""
        return block_size

    def check(self, config: TreeKVConfig) -> None:
        """Raise a `TreeKVError` if the sizes do not fit this policy."""
        if config.region_size < 1:
            raise TreeKVError(
                f"cache_size {config.cache_size} minus sink_size {config.sink_size} minus recent_size "
                f"{config.recent_size} leaves {config.region_size} tokens for policy {self.name!r} to choose; at least "
                "1 is needed, so raise cache_size or lower sink_size or recent_size"
            )

    def fits_blocks(self, config: TreeKVConfig, block_size: int) -> bool:
        """Whether `block_size` is sensible as a default for these settings."""
        return True

    def check_blocks(self, config: TreeKVConfig) -> None:  # noqa: B027  most policies do not use blocks
        """Raise a `TreeKVError` if `config.block_size` cannot be used with prefill "tree"."""

    @abstractmethod
    def evict(self, config: TreeKVConfig, scores: Scores, count: int) -> Evictions:
        """Choose between 1 and `count` of the next evictions; the caller asks again for the rest."""

    @abstractmethod
    def select_prompt(self, config: TreeKVConfig, prompt: Prompt) -> Selection:
        """Which tokens of a prompt longer than the cache stay, for prefill "tree"."""


def lowest(values: Tensor, count: int, first_rank: int) -> Tensor:
    """Ranks, ascending, of the `count` lowest of `values` [batch, heads, n], the first of which has `first_rank`.

    Values are float32 or integers of 32 bits. Among equals the older ones come first, on every device. There is no NaN
    among attention weights.
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
    """LongTensor [batch, heads, n], in the order of `values` and among equals in that of their positions: no two are
    equal, so that `topk`, much faster than a stable sort, has no choice."""
    if values.is_floating_point():
        bits = (values.float() + 0.0).view(torch.int32)  # there is no minus zero then
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
