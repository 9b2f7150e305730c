"""Policy "tree": TreeKV, the paper's cyclic comparison of neighbours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from treekv.errors import TreeKVError
from treekv.policies.base import Evictions, Policy, Prompt, Scores, Selection

if TYPE_CHECKING:
    from treekv.config import TreeKVConfig


class Tree(Policy):
    """Compare two neighbours at the cursor, evict the one with the lower average weight, move the cursor on.

    Paper: He et al., "TreeKV: Smooth Key-Value Cache Compression with Tree Structures", IJCAI 2025
    (arXiv 2501.04987). Acts in both stages: token by token while decoding, block by block on a prompt. Where
    the paper can be read in two ways the cursor moves by `stride` 1; see docs/method.md. Beyond the paper, `scope`
    neighbours instead of 2 may compete, and `importance` "contribution" weighs attention by the value's norm.
    """

    name = "tree"

    def check(self, config: TreeKVConfig) -> None:
        if config.region_size < 2:
            raise TreeKVError(
                f"cache_size {config.cache_size} minus sink_size {config.sink_size} minus recent_size "
                f"{config.recent_size} leaves a tree region of {config.region_size}; at least 2 ranks are needed "
                "to compare neighbours, so raise cache_size or lower sink_size or recent_size"
            )
        if config.scope > config.region_size:
            raise TreeKVError(
                f"scope must be at most the tree region of {config.region_size} ranks, got {config.scope}"
            )

    def fits_blocks(self, config: TreeKVConfig, block_size: int) -> bool:
        return _region_blocks(config, block_size) >= max(2, config.scope)

    def check_blocks(self, config: TreeKVConfig) -> None:
        if config.cache_size % config.block_size:
            raise TreeKVError(
                f"block_size must divide cache_size ({config.cache_size}) for prefill 'tree', got {config.block_size}"
            )
        region, least = _region_blocks(config, config.block_size), max(2, config.scope)
        if region < least:
            raise TreeKVError(
                f"block_size {config.block_size} leaves a tree region of {region} blocks between the sinks and the "
                f"recent tokens (each rounded up to whole blocks); at least {least} are needed for prefill 'tree', "
                "so choose a smaller block_size"
            )

    def evict(self, config: TreeKVConfig, scores: Scores, count: int) -> Evictions:
        region = scores.capacity - config.sink_size - config.recent_size
        return self.sweep(config, scores, count, config.sink_size, region)

    def sweep(self, config: TreeKVConfig, scores: Scores, count: int, sink: int, region: int) -> Evictions:
        """The next evictions at the cursor, up to the end of the region, as many at once as can be."""
        if config.scope > 2:
            return _compare_many(scores, sink, region, config.scope, config.stride)
        return compare_pairs(scores, count, sink, region, config.stride)

    def select_prompt(self, config: TreeKVConfig, prompt: Prompt) -> Selection:
        averages = None
        if prompt.sums is not None and prompt.counts is not None:
            averages = prompt.sums / prompt.counts
        blocks = _Blocks(averages, config, prompt)
        kept = torch.arange(blocks.held, device=prompt.device).expand(*blocks.shape, -1)
        winner_of = torch.full_like(kept, -1)
        region = _region_blocks(config, config.block_size, prompt.length)
        sink = -(-config.sink_size // config.block_size)
        while blocks.held > blocks.capacity:
            # Scores are fixed, so inserting every block first and evicting afterwards makes the same comparisons
            # as inserting them one by one: a pair lies left of whatever is still to come.
            losers, winners, cursor = self.sweep(config, blocks, blocks.held - blocks.capacity, sink, region)
            assert winners is not None and cursor is not None
            blocks.cursor = cursor
            winner_of = winner_of.scatter(2, kept.gather(2, losers), kept.gather(2, winners))
            kept = without(kept, losers)
            blocks.remove(losers)
        return _tokens_of_blocks(kept, winner_of, config.block_size, prompt.length)


def compare_pairs(scores: Scores, count: int, sink: int, region: int, stride: int) -> Evictions:
    """With `left` at the cursor, evict `left` unless avg[left] > avg[left + 1]; advance the cursor by `stride`.

    Each eviction shifts the ranks to its right down by one, so the k-th pair of a sweep begins at rank
    left + k * (stride + 1) of the list before it: pairs do not overlap and can be compared together.
    """
    cursor = scores.cursor
    count = at_once(cursor, count, region, stride)
    left = cursor + sink
    if count == 1 and isinstance(left, int):
        pair = scores.average(slice(left, left + 2))
        losers = pair.argmin(2, keepdim=True) + left  # of equals the first
        winners = torch.rsub(losers, 2 * left + 1) if scores.traced else None
        return Evictions(losers, winners, (cursor + stride) % region)
    lefts = left + (stride + 1) * torch.arange(count, device=scores.device)[None, None]
    if stride == 1 and isinstance(left, int):  # the pairs stand side by side
        pairs = scores.average(slice(left, left + 2 * count)).unflatten(2, (count, 2))
        losers = lefts + (pairs[..., 0] > pairs[..., 1])
    else:
        losers = lefts + (scores.average(lefts) > scores.average(lefts + 1))
    return Evictions(losers, 2 * lefts + 1 - losers, (cursor + count * stride) % region)


def at_once(cursor: int | Tensor, count: int, region: int, stride: int) -> int:
    """How many of `count` evictions the cursor makes before it reaches the end of the region.

    Only one where rows are at different places: their sweeps would end at different times.
    """
    return 1 if isinstance(cursor, Tensor) else min(count, -(-(region - cursor) // stride))


def _compare_many(scores: Scores, sink: int, region: int, scope: int, stride: int) -> Evictions:
    """One eviction: of `scope` neighbours from the cursor on the one with the lowest average goes, the oldest of
    equals. The cursor turns back where fewer neighbours are left (for a scope of 2 that is the end of the region)."""
    left = scores.cursor + sink
    window = torch.arange(scope, device=scores.device)[None, None] + left
    averages = scores.average(window)
    losers = averages.argmin(2, keepdim=True) + left
    # Who absorbs the loser: the strongest of the others, the newest of equals.
    winners = scope - 1 - averages.flip(2).argmax(2, keepdim=True) + left
    return Evictions(losers, winners, (scores.cursor + stride) % (region + 2 - scope))


def without(values: Tensor, ranks: Tensor) -> Tensor:
    """`values` [batch, heads, n] without the entries at `ranks` [batch, heads, m] (ascending, distinct)."""
    n, m = values.shape[2], ranks.shape[2]
    if m == 1:
        index = torch.arange(n - 1, device=values.device)
        return values.gather(2, index + (index >= ranks))
    # The i-th that stays has as many losers before it as losers that, taken out, leave i or fewer in front.
    index = torch.arange(n - m, device=values.device).expand(*values.shape[:2], -1).contiguous()
    before = torch.searchsorted((ranks - torch.arange(m, device=values.device)).contiguous(), index, right=True)
    return values.gather(2, index + before)


class _Blocks:
    """Scores of whole blocks of a prompt: the mean of the averages of their tokens.

    A short last block always wins, so that every head keeps the same number of tokens. It is recent and thus
    protected anyway, unless `recent_size` is 0.
    """

    def __init__(self, averages: Tensor | None, config: TreeKVConfig, prompt: Prompt) -> None:
        size, length = config.block_size, prompt.length
        count = -(-length // size)
        if averages is None:  # the policy compares nothing
            self.averages = torch.zeros(1, 1, count, device=prompt.device)
        else:
            padded = torch.nn.functional.pad(averages, (0, count * size - length))
            self.averages = padded.unflatten(2, (count, size)).sum(-1) / size
        if length % size:
            self.averages[..., -1] = torch.inf
        self.capacity = config.cache_size // size
        self.cursor: int | Tensor = 0
        self.step: int | Tensor = length - 1
        self.traced = True
        self.layer = prompt.layer
        self.shape = (self.averages.shape[0], self.averages.shape[1])
        self.device = prompt.device

    @property
    def held(self) -> int:
        return self.averages.shape[2]

    def average(self, ranks: slice | Tensor) -> Tensor:
        if isinstance(ranks, slice):
            return self.averages[..., ranks]
        return self.averages.gather(2, ranks.expand(*self.shape, -1))

    total = average

    def remove(self, ranks: Tensor) -> None:
        self.averages = without(self.averages, ranks)


def _tokens_of_blocks(kept: Tensor, winner_of: Tensor, size: int, length: int) -> Selection:
    """From blocks to tokens; a short last block is kept in every head (see `_Blocks`)."""
    offset = torch.arange(size, device=kept.device)
    tokens = (kept[..., None] * size + offset).flatten(-2)
    tokens = tokens[..., : tokens.shape[2] - (-length % size)]
    block = torch.arange(length, device=kept.device) // size
    winner = winner_of[..., block]
    within = torch.arange(length, device=kept.device) % size
    survivors = torch.where(winner < 0, -1, (winner * size + within).clamp(max=length - 1))
    return Selection(tokens, survivors)


def _region_blocks(config: TreeKVConfig, size: int, length: int | None = None) -> int:
    """Blocks that are neither sinks nor recent. In a prompt of `length` tokens a block is recent as soon as it
    holds one recent token; where the last block is short that can be one block more than the sizes alone say."""
    sinks, recents = -(-config.sink_size // size), -(-config.recent_size // size)
    if length is not None and config.recent_size:
        recents = -(-length // size) - (length - config.recent_size) // size
    return config.cache_size // size - sinks - recents
