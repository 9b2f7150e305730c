"""Eviction policies: index arithmetic on score tensors, without any knowledge of models.

`names()` lists them and `get(name)` finds one; each lives in a file of its own.
"""

from treekv.policies.base import Policy, Scores
from treekv.policies.full import Full
from treekv.policies.registry import get, names, register
from treekv.policies.streaming import Streaming
from treekv.policies.tree import Tree

for _policy in (Full(), Streaming(), Tree()):
    register(_policy)

__all__ = ["Full", "Policy", "Scores", "Streaming", "Tree", "get", "names", "register"]
