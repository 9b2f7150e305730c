"""Eviction policies: index arithmetic on score tensors, without any knowledge of models.

`names()` lists them and `get(name)` finds one; each lives in a file of its own, and `register` adds a user's.
"""

from treekv.policies.base import Evictions, Policy, Prompt, Scores, Selection
from treekv.policies.full import Full
from treekv.policies.h2o import H2O
from treekv.policies.pyramidkv import PyramidKV
from treekv.policies.random import Random
from treekv.policies.registry import get, names, register
from treekv.policies.snapkv import SNAPKV_PRESETS, SnapKV
from treekv.policies.streaming import Streaming
from treekv.policies.tova import TOVA
from treekv.policies.tree import Tree
from treekv.policies.tree_left import TreeLeft

for _policy in (
    Full(),
    Tree(),
    TreeLeft(),
    Streaming(),
    H2O(),
    TOVA(),
    SnapKV(),
    PyramidKV(),
    Random(),
):
    register(_policy)

__all__ = [
    "H2O",
    "SNAPKV_PRESETS",
    "TOVA",
    "Evictions",
    "Full",
    "Policy",
    "Prompt",
    "PyramidKV",
    "Random",
    "Scores",
    "Selection",
    "SnapKV",
    "Streaming",
    "Tree",
    "TreeLeft",
    "get",
    "names",
    "register",
]
