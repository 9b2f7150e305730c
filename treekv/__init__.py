"""TreeKV: tree-structured key-value cache compression for causal language models.

Importing the package registers the attention implementation "treekv" with transformers:

    model, tokenizer = treekv.load_model("smollm2")
    config = treekv.TreeKVConfig(policy="tree", cache_size=1024)
    cache = treekv.TreeKVCache(config, model.config)
    model.generate(**inputs, past_key_values=cache)

A policy of your own is a subclass of `Policy`, see `register_policy`.
"""

from importlib import metadata as _metadata

from treekv.attention import interface as _interface
from treekv.cache import TreeKVCache
from treekv.config import TreeKVConfig
from treekv.errors import TreeKVError
from treekv.models import load_model
from treekv.policies import (
    AVERAGE,
    DRAW,
    LAST,
    NOTHING,
    SNAPKV_PRESETS,
    SUM,
    Contest,
    Evictions,
    Policy,
    Prompt,
    Scores,
    Selection,
    Settings,
)
from treekv.policies import names as policy_names
from treekv.policies import register as register_policy
from treekv.policies import title as policy_title
from treekv.policies import unregister as unregister_policy

_interface.register()

__version__ = _metadata.version("treekv")

__all__ = [
    "AVERAGE",
    "DRAW",
    "LAST",
    "NOTHING",
    "SNAPKV_PRESETS",
    "SUM",
    "Contest",
    "Evictions",
    "Policy",
    "Prompt",
    "Scores",
    "Selection",
    "Settings",
    "TreeKVCache",
    "TreeKVConfig",
    "TreeKVError",
    "__version__",
    "load_model",
    "policy_names",
    "policy_title",
    "register_policy",
    "unregister_policy",
]
