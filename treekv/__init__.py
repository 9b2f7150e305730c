"""TreeKV: tree-structured key-value cache compression for causal language models.

Importing the package registers the attention implementation "treekv" with transformers. Each name is imported when it
is first used, so that torch and transformers are loaded only then:

    model, tokenizer = treekv.load_model("smollm2")
    config = treekv.TreeKVConfig(policy="tree", cache_size=1024)
    cache = treekv.TreeKVCache(config, model.config)
    model.generate(**inputs, past_key_values=cache)

A policy of your own is a subclass of `Policy`, see `register_policy`.
"""

from __future__ import annotations

import importlib
from importlib import metadata as _metadata
from typing import TYPE_CHECKING, Any

from treekv.registration import when_transformers_is_imported as _register

if TYPE_CHECKING:
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

# The module that defines each public name, and its name there; the imports above are the same for type checkers.
_DEFINED_IN = {
    "TreeKVCache": "cache",
    "TreeKVConfig": "config",
    "TreeKVError": "errors",
    "load_model": "models",
    "policy_names": "policies.names",
    "policy_title": "policies.title",
    "register_policy": "policies.register",
    "unregister_policy": "policies.unregister",
} | dict.fromkeys(
    (
        "AVERAGE", "DRAW", "LAST", "NOTHING", "SNAPKV_PRESETS", "SUM", "Contest", "Evictions", "Policy", "Prompt",
        "Scores", "Selection", "Settings",
    ),
    "policies",
)  # fmt: skip
_MODULES = (
    "attention", "budgets", "cache", "config", "device", "errors", "files", "hub", "model_identity", "models",
    "options", "policies", "shipped",
)  # fmt: skip

_register()

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


def __getattr__(name: str) -> Any:
    if name in _DEFINED_IN:
        module, _, own = _DEFINED_IN[name].partition(".")
        value = getattr(importlib.import_module(f"treekv.{module}"), own or name)
        globals()[name] = value  # the next access does not come here
        return value
    if name in _MODULES:
        return importlib.import_module(f"treekv.{name}")
    raise AttributeError(f"module 'treekv' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
