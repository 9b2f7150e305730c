"""Policy "tree": TreeKV, the paper's cyclic comparison of neighbours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from treekv.errors import TreeKVError
from treekv.policies.base import Evictions, Policy, PromptSelection, Scores

if TYPE_CHECKING:
    from treekv.config import TreeKVConfig


class Tree(Policy):
    """Compare two neighbours at the cursor, evict the one with the lower average weight, move the cursor on.

    Paper: He et al., "TreeKV: Smooth Key-Value Cache Compression with Tree Structures", IJCAI 2025
    (arXiv 2501.04987). Acts in both stages: token by token while decoding, block by block on a prompt. Where
    the paper can be read in two ways the cursor moves by `stride` 1; see docs/method.md.
    """

    name = "tree"

    def evict(self, config: TreeKVConfig, scores: Scores, count: int) -> Evictions:
        region = scores.capacity - config.sink_size - config.recent_size
        return sweep(scores, count, config.sink_size, region, config.stride)

    def fits_blocks(self, config: TreeKVConfig, block_size: int) -> bool:
        return _region_blocks(config, block_size) >= 2

    def check_blocks(self, config: TreeKVConfig) -> None:
        if config.cache_size % config.block_size:
            raise TreeKVError(
                f"block_size must divide cache_size ({config.cache_size}) for prefill 'tree', "
                f"got {config.block_size}"
            )
        region = _region_blocks(config, config.block_size)
        if region < 2:
            raise TreeKVError(
                f"block_size {config.block_size} leaves a tree region of {region} blocks between the sinks and the "
                "recent tokens (each rounded up to whole blocks); at least 2 are needed for prefill 'tree', so "
                "choose a smaller block_size"
            )

    def select_prompt(self, config: TreeKVConfig, averages: Tensor | None, length: int) -> PromptSelection:
        assert averages is not None  # uses_attention is True
        size = config.block_size
        blocks = BlockScores(averages, size, capacity=config.cache_size // size)
        batch, heads = blocks.shape
        device = averages.device
        kept = torch.arange(blocks.held, device=device).expand(batch, heads, -1)
        winner_of = torch.full_like(kept, -1)
        while blocks.held > blocks.capacity:
            # Scores are fixed, so inserting every block first and evicting afterwards makes the same comparisons
            # as inserting them one by one: a pair lies left of whatever is still to come.
            losers, winners, blocks.cursor = sweep(
                blocks,
                blocks.held - blocks.capacity,
                -(-config.sink_size // size),
                _region_blocks(config, size),
                config.stride,
            )
            winner_of = winner_of.scatter(2, kept.gather(2, losers), kept.gather(2, winners))
            kept = without(kept, losers)
            blocks.averages = without(blocks.averages, losers)
        return self._spread(kept, winner_of, size, length)

    def _spread(self, kept: Tensor, winner_of: Tensor, size: int, length: int) -> PromptSelection:
        """From blocks to tokens; a short last block is in `kept` in every head (see `BlockScores`)."""
        offset = torch.arange(size, device=kept.device)
        tokens = (kept[..., None] * size + offset).flatten(-2)
        tokens = tokens[..., : tokens.shape[2] - (-length % size)]
        survivors = (winner_of.repeat_interleave(size, dim=2) * size)[..., :length]
        survivors = torch.where(
            survivors < 0,
            -1,
            (survivors + offset.repeat(winner_of.shape[2])[:length]).clamp(max=length - 1),
        )
        return PromptSelection(tokens, survivors)


def sweep(scores: Scores, count: int, sink: int, region: int, stride: int) -> Evictions:
    """The next evictions at the cursor, up to the end of the region, all at once.

    With `left` at the cursor, evict `left` unless avg[left] > avg[left + 1], then advance the cursor by `stride`.
    Each eviction shifts the ranks to its right down by one, so the k-th pair of a sweep begins at rank
    left + k * (stride + 1) of the list before it: pairs do not overlap and can be compared together.
    """
    device = scores.device
    if isinstance(scores.cursor, Tensor):
        count = 1  # rows are at different places of the region: a longer sweep would end at different times
        left = scores.cursor + sink
    else:
        count = min(count, -(-(region - scores.cursor) // stride))
        first = sink + scores.cursor
        if count == 1:
            pair = scores.average(slice(first, first + 2))
            right_loses = (pair[..., :1] > pair[..., 1:]).long()
            losers = right_loses + first
            return Evictions(losers, 2 * first + 1 - losers, (scores.cursor + stride) % region)
        left = first + (stride + 1) * torch.arange(count, device=device)[None, None]
    right_loses = (scores.average(left) > scores.average(left + 1)).long()
    losers = left + right_loses
    cursor = (scores.cursor + count * stride) % region
    return Evictions(losers, 2 * left + 1 - losers, cursor)


def without(values: Tensor, ranks: Tensor) -> Tensor:
    """`values` [batch, heads, n] without the entries at `ranks` [batch, heads, m] (ascending, distinct)."""
    n, m = values.shape[2], ranks.shape[2]
    if m == 1:
        index = torch.arange(n - 1, device=values.device)
        return values.gather(2, index + (index >= ranks))
    # The i-th that stays has as many losers before it as losers that, taken out, leave i or fewer in front.
    index = torch.arange(n - m, device=values.device).expand(*values.shape[:2], -1).contiguous()
    before = torch.searchsorted(
        (ranks - torch.arange(m, device=values.device)).contiguous(), index, right=True
    )
    return values.gather(2, index + before)


class BlockScores:
    """Scores of whole blocks of a prompt: the mean of the averages of their tokens.

    A short last block always wins, so that every head keeps the same number of tokens. It is recent and thus
    protected anyway, unless `recent_size` is 0.
    """

    def __init__(self, averages: Tensor, size: int, capacity: int) -> None:
        batch, heads, length = averages.shape
        count = -(-length // size)
        padded = torch.nn.functional.pad(averages, (0, count * size - length))
        self.averages = padded.view(batch, heads, count, size).sum(-1) / size
        if length % size:
            self.averages[..., -1] = torch.inf
        self.capacity = capacity
        self.cursor: int | Tensor = 0
        self.shape = (batch, heads)
        self.device = averages.device

    @property
    def held(self) -> int:
        return self.averages.shape[2]

    def average(self, ranks: slice | Tensor) -> Tensor:
        if isinstance(ranks, slice):
            return self.averages[..., ranks]
        return self.averages.gather(2, ranks.expand(*self.shape, -1))


def _region_blocks(config: TreeKVConfig, size: int) -> int:
    sinks, recents = -(-config.sink_size // size), -(-config.recent_size // size)
    return config.cache_size // size - sinks - recents
