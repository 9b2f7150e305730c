"""Eviction policies: rules over ranks and scores, without any knowledge of models.

`names()` lists them and `get(name)` finds one; each is defined in a file of its own, and `register` adds a user's.
"""

import importlib

from treekv.policies.base import Policy
from treekv.policies.contest import AVERAGE, DRAW, LAST, NOTHING, SUM, Contest
from treekv.policies.registry import get, names, of, register, title, unregister
from treekv.policies.scores import Evictions, Prompt, Scores, Selection
from treekv.policies.settings import OPTIONS, Settings
from treekv.policies.snapkv import SNAPKV_PRESETS
from treekv.policies.variants import PAPER_ALLOCATION, PUBLISHED, Defaults, Variant

#: module:class, in the order in which `names()` lists them.
_BUILT_IN = (
    "full:Full",
    "tree:Tree",
    "tree_left:TreeLeft",
    "streaming:Streaming",
    "h2o:H2O",
    "tova:TOVA",
    "snapkv:SnapKV",
    "pyramidkv:PyramidKV",
    "random:Random",
    "keydiff:KeyDiff",
    "lagkv:LagKV",
    "rkv:RKV",
    "snapkv_decode:SnapKVDecode",
    "cur:CUR",
    "vase:VaSE",
    "cascade:Cascade",
    "lacache:LaCache",
    "openvino:OpenVINO",
    "expected:Expected",
)

for _entry in _BUILT_IN:
    _module, _class = _entry.split(":")
    register(getattr(importlib.import_module(f"treekv.policies.{_module}"), _class)())

__all__ = [
    "AVERAGE",
    "DRAW",
    "LAST",
    "NOTHING",
    "OPTIONS",
    "PAPER_ALLOCATION",
    "PUBLISHED",
    "SNAPKV_PRESETS",
    "SUM",
    "Contest",
    "Defaults",
    "Evictions",
    "Policy",
    "Prompt",
    "Scores",
    "Selection",
    "Settings",
    "Variant",
    "get",
    "names",
    "of",
    "register",
    "title",
    "unregister",
]
