"""What a policy is shown and what it answers: scores by rank, evictions, prompts and selections."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

#: Estimates of what queries from the places after a prompt see: the prompt's own queries, moved there, or the mean over
#: a normal distribution with their mean and covariance.
MOVED, EXPECTED = "moved", "expected"


class Contents(Protocol):
    """Keys, values and last queries of the n tokens that are held, or of a prompt, by rank; for a policy that
    `reads_contents`. Each call computes anew.
    """

    def keys(self, ranks: slice | Tensor | None = None) -> Tensor:
        """float32 [batch, kv_heads, n, head_dim], as they are stored: rotated to their true positions with positions
        "original", else not rotated, and with the channels in another order. Of the m `ranks` that are asked for, a
        slice or LongTensor [batch, kv_heads, m], by default of all."""
        ...

    def values(self) -> Tensor:
        """float32 [batch, kv_heads, n, value_dim]."""
        ...

    def logits(self) -> Tensor:
        """float32 [batch, kv_heads, group, m, n]: the products, scaled as before the softmax, of all keys with the last
        m queries, `Policy.last_queries` of them; also of keys after a query, which it did not see."""
        ...


class Scores(Protocol):
    """What a policy may look at when it evicts. Ranks are positions in the cache, oldest first.

    Attributes:
        held: number of ranks, the newest tokens included.
        capacity: the most ranks at rest.
        cursor: where the next contest starts, counted from its first rank: one number for all rows, or a LongTensor
            [batch, 1, 1].
        step: true position of the newest token: one number, or a LongTensor [batch, 1, 1].
        layer: the layer's number among the compressed layers, or the number of each row if they belong to several
            layers, which a policy with `depends_on_layer` sees only if it `takes_layers_together`.
        traced: whether survivors are recorded; a policy may leave them out otherwise.
        shape: (batch, kv_heads).
        heads: how many KV heads there are; or LongTensor [batch, 1], the number of each row's only head, where heads
            of a layer have capacities of their own.
        device: where the tensors live.
    """

    heads: int | Tensor
    traced: bool
    shape: tuple[int, int]
    device: torch.device

    @property
    def contents(self) -> Contents:
        """Keys and values, for a policy that `reads_contents`."""
        ...

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
        """Average observed weight, float32 [batch, kv_heads, m], of the m ranks asked for; infinite where no query has
        counted yet."""
        ...

    def total(self, ranks: slice | Tensor) -> Tensor:
        """Sum of observed weights likewise; for a policy that compares by LAST, the last observed weight."""
        ...


class Evictions(NamedTuple):
    """One or more evictions, in ranks of the list before the first of them.

    Attributes:
        losers: LongTensor [batch, kv_heads, m], the ranks to evict, ascending along m; or one rank, if it is the only
            one, the same in all heads, and nothing is traced.
        survivors: LongTensor of the same shape, the rank that won each comparison; None where nothing was compared
            or nothing is recorded.
        cursor: the cursor afterwards; None if it does not move.
    """

    losers: Tensor | int
    survivors: Tensor | None = None
    cursor: int | Tensor | None = None


class Prompt(NamedTuple):
    """A prompt that is longer than the cache, as prefill "once" sees it.

    Attributes:
        length: T, its tokens.
        sums: float32 [batch, kv_heads, T], weights summed over the observing queries; None for a policy that
            does not use attention.
        counts: float32 [1, 1, T], how many observing queries could see the token and count; None likewise.
        heads: KV heads, as in `Scores`.
        layer: the layer's number, as in `Scores`.
        layers: how many compressed layers the model has.
        device: where the tensors live.
        future: float32 [batch, kv_heads, T], what queries from places after the prompt see, by `Policy.future_by`; else
            None.
        traced: whether survivors are recorded; a policy may leave them out otherwise.
        contents: keys and values, for a policy that `reads_contents`; else None.
        slots: how many tokens to keep beside the protected ones, where heads share what they keep; else None, and the
            settings say it.
    """

    length: int
    sums: Tensor | None
    counts: Tensor | None
    heads: int | Tensor
    layer: int | tuple[int, ...]
    layers: int
    device: torch.device
    future: Tensor | None = None
    traced: bool = True
    contents: Contents | None = None
    slots: int | None = None


class Selection(NamedTuple):
    """What is kept of a prompt.

    Attributes:
        kept: LongTensor [batch or 1, kv_heads or 1, k], positions that are kept, ascending.
        survivors: LongTensor [batch or 1, kv_heads or 1, T], for each evicted token the position that won against it,
            -1 where it is kept or nothing was compared; None if nothing was compared at all.
    """

    kept: Tensor
    survivors: Tensor | None
