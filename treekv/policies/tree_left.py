"""Policy "tree_left": the paper's ablation without any scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from treekv.policies.base import Evictions, Scores
from treekv.policies.tree import Tree, at_once

if TYPE_CHECKING:
    from treekv.config import TreeKVConfig


class TreeLeft(Tree):
    """TreeKV's cursor, but the left, older one of the pair always goes; attention is not looked at.

    Paper: the ablation "tree, left" of He et al., IJCAI 2025 (arXiv 2501.04987). Acts in both stages, like `Tree`.
    """

    name = "tree_left"
    uses_attention = False

    def sweep(self, config: TreeKVConfig, scores: Scores, count: int, sink: int, region: int) -> Evictions:
        cursor = scores.cursor
        count = at_once(cursor, count, region, config.stride)
        left = cursor + sink
        if count > 1:
            left = left + (config.stride + 1) * torch.arange(count, device=scores.device)[None, None]
        if isinstance(left, int):
            losers = torch.full((*scores.shape, 1), left, device=scores.device)
        else:
            losers = left.expand(*scores.shape, count)
        winners = losers + 1 if scores.traced else None
        return Evictions(losers, winners, (cursor + count * config.stride) % region)
