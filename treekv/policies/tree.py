"""Policy "tree": TreeKV, the paper's cyclic comparison of neighbours."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from treekv.errors import TreeKVError
from treekv.policies.base import Policy
from treekv.policies.contest import AVERAGE, NOTHING, Contest, run_contest
from treekv.policies.prompt_choice import choose_tokens
from treekv.policies.ranking import without
from treekv.policies.scores import MOVED, Contents, Evictions, Prompt, Scores, Selection
from treekv.policies.settings import Settings

#: The value of `importance` that needs no attention.
SIMILARITY: Final = "similarity"

#: The value of `prompt_score` that chooses tokens instead of blocks, and the options that only it heeds.
FUTURE = "future"
FUTURE_OPTIONS = (
    *("prompt_scope", "future_window", "future_reduction", "window_share", "kernel_size", "pooling"),
    "share_heads",
)


class Tree(Policy):
    """Compare two neighbours at the cursor, evict the one with the lower average weight, move the cursor on.

    Paper: He et al., "TreeKV: Smooth Key-Value Cache Compression with Tree Structures", IJCAI 2025
    (arXiv 2501.04987). Acts in both stages: token by token while decoding, block by block on a prompt. Where
    the paper can be read in two ways the cursor moves by `stride` 1; see docs/method.md. Beyond the paper, `scope`
    neighbours instead of 2 may compete, up to the end of the region with `scope_end` "clipped"; `importance`
    "contribution" weighs attention by the value's norm, "late" leaves out that of the queries right after a token,
    "similarity" needs no attention and evicts the neighbour whose key is more like those around it; and `max_height`,
    the authors' idea for later, limits how often the far past is thinned. `prompt_score` "future" reduces a prompt
    token by token, by what coming queries would see of it; see docs/prompts.md.
    """

    name = "tree"
    title = "TreeKV"
    options: tuple[str, ...] = (
        *("stride", "scope", "scope_end", "importance", "max_height", "prompt_score"),
        *FUTURE_OPTIONS,
    )
    by = AVERAGE

    def heeded(self, settings: Settings) -> tuple[str, ...]:
        if self.scores_future(settings):
            return self.options
        return tuple(option for option in self.options if option not in FUTURE_OPTIONS)

    def acting(self, settings: Settings) -> Policy:
        return SIMILAR if self.by == AVERAGE and settings.importance == SIMILARITY else self

    def future_by(self, settings: Settings) -> str | None:
        return MOVED if "prompt_score" in self.options and settings.prompt_score == FUTURE else None

    def check(self, settings: Settings) -> None:
        if settings.region_size < 2:
            raise TreeKVError(
                f"cache_size {settings.cache_size} minus sink_size {settings.sink_size} minus recent_size "
                f"{settings.recent_size} leaves a tree region of {settings.region_size}; at least 2 ranks are needed "
                "to compare neighbours, so raise cache_size or lower sink_size or recent_size"
            )
        if settings.scope > settings.region_size:
            raise TreeKVError(
                f"scope must be at most the tree region of {settings.region_size} ranks, got {settings.scope}"
            )

        if settings.importance == SIMILARITY and self.scores_future(settings):
            raise TreeKVError(
                "importance 'similarity' uses no attention, which prompt_score 'future' is made of; use prompt_score "
                "'window', or another importance"
            )
        if settings.max_height is not None and settings.stride != 1:
            raise TreeKVError(
                f"max_height needs stride 1, whose sweeps halve what they pass, got max_height {settings.max_height} "
                f"with stride {settings.stride}"
            )

    def fits_blocks(self, settings: Settings, block_size: int) -> bool:
        return _region_blocks(settings, block_size) >= max(2, settings.scope)

    def check_blocks(self, settings: Settings) -> None:
        if self.scores_future(settings):
            return
        if settings.cache_size % settings.block_size:
            raise TreeKVError(
                f"block_size must divide cache_size ({settings.cache_size}) for prefill 'once', got "
                f"{settings.block_size}"
            )
        region, least = _region_blocks(settings, settings.block_size), max(2, settings.scope)
        if region < least:
            raise TreeKVError(
                f"block_size {settings.block_size} leaves a tree region of {region} blocks between the sinks and the "
                f"recent tokens (each rounded up to whole blocks); at least {least} are needed for prefill 'once', "
                "so choose a smaller block_size"
            )

    def contest(self, settings: Settings, capacity: int) -> Contest:
        region = capacity - settings.sink_size - settings.recent_size
        return self._sweep(settings, settings.sink_size, region, settings.recent_size)

    def _sweep(self, settings: Settings, sink: int, region: int, recent: int) -> Contest:
        """Neighbours compete at the cursor, which runs over the region for as long as `scope` of them are left, or two
        where windows are clipped."""
        wrap = region if settings.scope_end == "clipped" else region + 2 - settings.scope
        return Contest(
            self.by,
            first=sink,
            width=settings.scope,
            recent=recent,
            stride=settings.stride,
            wrap=wrap,
            absorbs=True,
            height=settings.max_height or 0,
        )

    def competing(self, settings: Settings, prompt: Prompt) -> Tensor | None:
        if prompt.future is None:
            return None
        return prompt.future[..., settings.sink_size : prompt.length - settings.recent_size]

    def select_prompt(self, settings: Settings, prompt: Prompt) -> Selection:
        if self.scores_future(settings):
            return choose_tokens(settings, prompt, self.prompt_slots(settings, prompt))
        blocks = _Blocks(self.token_scores(settings, prompt), settings, prompt)
        kept = torch.arange(blocks.count, device=prompt.device).expand(*blocks.shape, -1)
        survivor_of = torch.full_like(kept, -1)
        region = _region_blocks(settings, settings.block_size, prompt.length)
        sink = -(-settings.sink_size // settings.block_size)
        sweep = self._sweep(settings, sink, region, blocks.capacity - sink - region)
        while blocks.held > blocks.capacity:
            # Scores are fixed, so inserting every block first and evicting afterwards makes the same comparisons
            # as inserting them one by one: the competitors are left of all blocks still to come. But where windows are
            # clipped, the others must be out of sight.
            losers, survivors, cursor = run_contest(sweep, blocks, blocks.held - blocks.capacity)
            # The contest absorbs, which is traced, and its cursor moves.
            assert isinstance(losers, Tensor) and survivors is not None and cursor is not None
            blocks.cursor = cursor
            survivor_of = survivor_of.scatter(2, kept.gather(2, losers), kept.gather(2, survivors))
            kept = without(kept, losers)
            blocks.remove(losers)
        return _tokens_of_blocks(kept, survivor_of, settings.block_size, prompt.length)

    def token_scores(self, settings: Settings, prompt: Prompt) -> Tensor | None:
        """float32 [batch, kv_heads, T], over which the mean of a prompt's block is what it is compared by; None if
        nothing is compared."""
        if prompt.sums is None or prompt.counts is None:
            return None
        averages = prompt.sums / prompt.counts
        return averages.masked_fill(prompt.counts == 0, torch.inf) if settings.delay else averages


class SimilarTree(Tree):
    """Policy "tree" with importance "similarity"; see docs/method.md."""

    by = NOTHING  # no score that the cache collects
    reads_contents = True

    def evict(self, settings: Settings, scores: Scores, count: int) -> Evictions:
        # One after another: an eviction gives the tokens beside it another neighbour.
        return run_contest(self.contest(settings, scores.capacity), _Details(scores), 1)

    def _sweep(self, settings: Settings, sink: int, region: int, recent: int) -> Contest:
        return super()._sweep(settings, sink, region, recent)._replace(by=AVERAGE)  # which is what `_Details` gives

    def token_scores(self, settings: Settings, prompt: Prompt) -> Tensor:
        assert prompt.contents is not None  # the policy reads them
        steps = _steps(prompt.contents.keys())
        return torch.cat([steps[..., :1], steps], 2) + torch.cat([steps, steps[..., -1:]], 2)


SIMILAR: Final = SimilarTree()


def _steps(keys: Tensor) -> Tensor:
    """float32 [batch, kv_heads, n - 1], how far each of n keys is from the one before it."""
    return torch.linalg.vector_norm(keys[:, :, 1:] - keys[:, :, :-1], dim=3)


class _Details:
    """`Scores` whose average is the importance "similarity"."""

    def __init__(self, scores: Scores) -> None:
        self.contents, self.held, self.capacity, self.cursor = (
            scores.contents,
            scores.held,
            scores.capacity,
            scores.cursor,
        )
        self.step, self.layer, self.heads, self.traced = scores.step, scores.layer, scores.heads, scores.traced
        self.shape, self.device = scores.shape, scores.device

    def average(self, ranks: slice | Tensor) -> Tensor:
        """Of successive ranks, of which those beyond the last are not looked at."""
        if isinstance(ranks, slice) and ranks.start > 0 and ranks.stop < self.held:
            around: slice | Tensor = slice(ranks.start - 1, ranks.stop + 1)
        else:
            if isinstance(ranks, slice):
                ranks = torch.arange(ranks.start, ranks.stop, device=self.device)
            first, width, last = ranks[..., :1], ranks.shape[-1], self.held - 1
            around = (first - 1 + torch.arange(width + 2, device=self.device)).abs()  # rank 1 is on either side of 0,
            around = last - (last - around).abs()  # and the last but one of the last
            around = around.clamp(min=0).expand(*self.shape, -1)
        steps = _steps(self.contents.keys(around))
        return steps[..., :-1] + steps[..., 1:]

    total = average


class _Blocks:
    """Scores of whole blocks of a prompt: the mean of the averages of their tokens.

    A short last block always wins, so that every head keeps the same number of tokens. It is recent and thus
    protected anyway, unless `recent_size` is 0.
    """

    def __init__(self, averages: Tensor | None, settings: Settings, prompt: Prompt) -> None:
        size, length = settings.block_size, prompt.length
        count = -(-length // size)
        if averages is None:  # the policy compares nothing
            self.averages = torch.zeros(1, 1, count, device=prompt.device)
        else:
            padded = torch.nn.functional.pad(averages, (0, count * size - length))
            self.averages = padded.unflatten(2, (count, size)).sum(-1) / size
        if length % size:
            self.averages[..., -1] = torch.inf
        self.count, self.capacity = count, settings.cache_size // size
        clips = settings.scope_end == "clipped" and settings.scope > 2
        self._waiting = max(count - self.capacity - 1, 0) if clips else 0  # blocks still to come, out of sight
        self.cursor: int | Tensor = 0
        self.traced = True
        self.layer, self.heads = prompt.layer, prompt.heads
        self.shape = (self.averages.shape[0], self.averages.shape[1])
        self.device = prompt.device

    @property
    def contents(self) -> Contents:
        raise NotImplementedError("a block of a prompt has an average and nothing else")

    @property
    def held(self) -> int:
        return self.averages.shape[2] - self._waiting

    @property
    def step(self) -> int | Tensor:
        return self.count - 1 - self._waiting

    def average(self, ranks: slice | Tensor) -> Tensor:
        if isinstance(ranks, slice):
            return self.averages[..., ranks]
        return self.averages.gather(2, ranks.expand(*self.shape, -1))

    total = average

    def remove(self, ranks: Tensor) -> None:
        self.averages = without(self.averages, ranks)
        self._waiting = max(self._waiting - ranks.shape[2], 0)


def _tokens_of_blocks(kept: Tensor, survivor_of: Tensor, size: int, length: int) -> Selection:
    """From blocks to tokens; a short last block is kept in every head (see `_Blocks`)."""
    offset = torch.arange(size, device=kept.device)
    tokens = (kept[..., None] * size + offset).flatten(-2)
    tokens = tokens[..., : tokens.shape[2] - (-length % size)]
    block = torch.arange(length, device=kept.device) // size
    survivor = survivor_of[..., block]
    within = torch.arange(length, device=kept.device) % size
    survivors = torch.where(survivor < 0, -1, (survivor * size + within).clamp(max=length - 1))
    return Selection(tokens, survivors)


def _region_blocks(settings: Settings, size: int, length: int | None = None) -> int:
    """Blocks that are neither sinks nor recent. In a prompt of `length` tokens a block is recent as soon as it
    holds one recent token; where the last block is short that can be one block more than the sizes alone say."""
    sinks, recents = -(-settings.sink_size // size), -(-settings.recent_size // size)
    if length is not None and settings.recent_size:
        recents = -(-length // size) - (length - settings.recent_size) // size
    return settings.cache_size // size - sinks - recents
