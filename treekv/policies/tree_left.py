"""Policy "tree_left": the paper's ablation without any scores."""

from __future__ import annotations

from treekv.policies.contest import NOTHING
from treekv.policies.tree import Tree


class TreeLeft(Tree):
    """TreeKV's cursor, but always evict the left, older token of the pair; attention is not used.

    Paper: the ablation "tree, left" of He et al., IJCAI 2025 (arXiv 2501.04987). Acts in both stages, like `Tree`.
    """

    name = "tree_left"
    title = "TreeKV, left"
    options = ("stride", "max_height")
    by = NOTHING
