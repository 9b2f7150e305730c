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
    """What a policy may look at. Ranks are positions in the cache, oldest first.

    Attributes:
        held: number of ranks, newcomers included.
        capacity: ranks at rest; `held - capacity` must go.
        cursor: where policy "tree" compares next, counted from the end of the sinks: one number for all rows,
            or a LongTensor [batch, 1, 1].
        shape: (batch, kv_heads).
        device: where the tensors live.
    """

    held: int
    capacity: int
    cursor: int | Tensor
    shape: tuple[int, int]
    device: torch.device

    def average(self, ranks: slice | Tensor) -> Tensor:
        """Average observed attention weight, float32 [batch, kv_heads, m], of the m ranks asked for."""
        ...


class Evictions(NamedTuple):
    """One or more evictions, in ranks of the list before the first of them.

    Attributes:
        losers: LongTensor [batch, kv_heads, m], ascending along m.
        winners: LongTensor of the same shape, who won the comparison; None where nothing was compared.
        cursor: the cursor afterwards.
    """

    losers: Tensor
    winners: Tensor | None
    cursor: int | Tensor


class Policy(ABC):
    """Base of all policies; stateless, so one object serves every cache.

    Attributes:
        name: the value of `TreeKVConfig.policy`.
        bounded: False for a policy that never evicts.
        uses_attention: whether scores are needed; without them attention weights are not collected.
    """

    name: str
    bounded: bool = True
    uses_attention: bool = True

    def default_recent_size(self, cache_size: int, sink_size: int) -> int:
        """Half of the cache, sinks included (the paper: 1,024 = 4 + 508 + 512)."""
        return max(cache_size // 2 - sink_size, 0)

    def check(self, config: TreeKVConfig) -> None:
        """Raise a `TreeKVError` if the sizes do not fit this policy."""
        if config.region_size < 2:
            raise TreeKVError(
                f"cache_size {config.cache_size} minus sink_size {config.sink_size} minus recent_size "
                f"{config.recent_size} leaves a tree region of {config.region_size}; at least 2 ranks are needed "
                "to compare neighbours, so raise cache_size or lower recent_size"
            )

    def fits_blocks(self, config: TreeKVConfig, block_size: int) -> bool:
        """Whether `block_size` is sensible as a default for these settings."""
        return True

    def check_blocks(self, config: TreeKVConfig) -> None:
        """Raise a `TreeKVError` if `config.block_size` cannot be used with prefill "tree"."""

    @abstractmethod
    def evict(self, config: TreeKVConfig, scores: Scores, count: int) -> Evictions:
        """Choose between 1 and `count` of the next evictions; the caller asks again for the rest."""

    @abstractmethod
    def select_prompt(self, config: TreeKVConfig, averages: Tensor | None, length: int) -> PromptSelection:
        """Which tokens of a prompt longer than the cache stay, for prefill "tree".

        `averages` [batch, kv_heads, length], or None if the policy does not use attention.
        """


class PromptSelection(NamedTuple):
    """The outcome of prefill "tree".

    Attributes:
        kept: LongTensor [batch or 1, kv_heads or 1, k], positions that stay, ascending.
        survivors: LongTensor [batch or 1, kv_heads or 1, length], for each token the position that won against
            it when it was evicted, -1 where it stays or nothing was compared.
    """

    kept: Tensor
    survivors: Tensor
